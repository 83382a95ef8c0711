"""Attention that reads token trees, registered with transformers under the name ``holdtrue_tree``.

A token sees what it would see if its sequence stood alone: its own prompt and its own answer before it
(in encoders all of its sequence), never a sibling answer, never another tree. No model code is edited.
While a plan is in force (:func:`laid_out`) the registered mask function returns the plan together with
the model's own rule of who may see whom by position (causal, sliding window, chunks), and the registered
attention function computes with it; without a plan both behave as transformers' SDPA.

On the CPU and by default on CUDA attention is computed tree by tree with scaled-dot-product attention:
the prompt causally, the answers against prompt and answers under a small mask. ``FLEX`` computes all
trees in one FlexAttention kernel with a block mask (CUDA).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

NAME = "holdtrue_tree"
FLEX = "holdtrue_tree_flex"
_PRODUCT_LIMIT = 2048  # keys; beyond it the saved weights would outgrow a layer's other activations
_PRODUCT_ROWS = 256

Rule = Callable[[Any, Any, Any, Any], Any]


class TreePlan:
    """Where trees lie in a packed row.

    Args:
        shape: per tree the prompt's length and its answers' lengths.
        device: where masks are made.

    Attributes:
        read_only_layer: index of the layer that computes only the rows that are read, or ``None``.
    """

    def __init__(
        self, shape: Sequence[tuple[int, Sequence[int]]], device: torch.device | str = "cpu"
    ) -> None:
        self.shape = [(prompt, list(answers)) for prompt, answers in shape]
        self.sizes = [prompt + sum(answers) for prompt, answers in self.shape]
        self.device = torch.device(device)
        self.read_only_layer: int | None = None
        self._cache: dict[Any, Any] = {}

    def segments(self) -> list[tuple[Tensor, Tensor]]:
        """Per tree: position and answer number (-1 in the prompt) of each token."""
        if "segments" not in self._cache:
            made = []
            for prompt, answers in self.shape:
                parts = [torch.arange(prompt), *(torch.arange(prompt, prompt + n) for n in answers)]
                numbers = torch.repeat_interleave(
                    torch.arange(-1, len(answers)), torch.tensor([prompt, *answers])
                )
                made.append((torch.cat(parts).to(self.device), numbers.to(self.device)))
            self._cache["segments"] = made
        segments: list[tuple[Tensor, Tensor]] = self._cache["segments"]
        return segments

    def mask(self, tree: int, rule: Rule, queries: str) -> Tensor:
        """(Q, size) bool, who sees whom in one tree, for the query rows named.

        ``queries`` is ``prompt``, ``answers`` or ``read`` (the last token of each answer).
        """
        # transformers makes the rule anew for every forward pass; within one it is the same object
        key = (tree, rule, queries)
        if key not in self._cache:
            position, number = self.segments()[tree]
            prompt, answers = self.shape[tree]
            if queries == "prompt":
                pick = torch.arange(prompt, device=self.device)
            elif queries == "answers":
                pick = torch.arange(prompt, len(position), device=self.device)
            else:
                pick = prompt + torch.tensor(answers, device=self.device).cumsum(0) - 1
            q, k = position[pick][:, None], position[None, :]
            same = (number[None, :] == -1) | (number[pick][:, None] == number[None, :])
            self._cache[key] = same & rule(0, 0, q, k)
        mask: Tensor = self._cache[key]
        return mask

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """Value made once per plan."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


class TreeMask:
    """What stands in for an attention mask while a plan is in force."""

    def __init__(self, plan: TreePlan, rule: Rule, reach: int | None) -> None:
        self.plan = plan
        self.rule = rule
        self.reach = reach  # how far back a token sees; None means to the beginning

    def causal(self, length: int) -> bool:
        """Whether over ``length`` positions the rule is plain causal attention."""
        return self.rule is causal_mask_function or (self.reach is not None and length <= self.reach)


_plan: ContextVar[TreePlan | None] = ContextVar("plan", default=None)


@contextmanager
def laid_out(plan: TreePlan) -> Iterator[None]:
    """The model's next forward pass reads its input by this plan."""
    token = _plan.set(plan)
    try:
        yield
    finally:
        _plan.reset(token)


def _mask(*args: Any, **kwargs: Any) -> Any:
    plan = _plan.get()
    if plan is None:
        return sdpa_mask(*args, **kwargs)
    rule = kwargs.get("mask_function", causal_mask_function)
    first, second = torch.tensor(0), torch.tensor(1)
    sees_ahead = bool(rule(0, 0, first, second))  # an encoder's window is no shorter causal one
    return TreeMask(plan, rule, None if sees_ahead else kwargs.get("local_size"))


def _unknown(extra: dict[str, Any]) -> str | None:
    return next((n for n in ("s_aux", "position_bias", "head_mask") if extra.get(n) is not None), None)


def _refuse_unknown(extra: dict[str, Any]) -> None:
    if name := _unknown(extra):
        raise NotImplementedError(f"its attention uses {name}, which a tree does not carry")


def _tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """(1, heads, T, d) queries, keys and values to (1, T, heads, d)."""
    if not isinstance(attention_mask, TreeMask):
        if softcap is not None:
            out = _soft_capped(query, key, value, attention_mask, scaling, dropout, softcap)
            return out.transpose(1, 2), None
        seen = _who_sees_whom(module, query, key, attention_mask)
        if (
            seen is not None
            and not dropout
            and not _unknown(extra)
            and _products_are_faster(query, key, value)
        ):
            return _by_products(query, key, value, seen, scaling).transpose(1, 2), None
        forwarded = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **extra
        )
        return forwarded[0], None
    _refuse_unknown(extra)
    plan = attention_mask.plan
    read_only = plan.read_only_layer is not None and plan.read_only_layer == getattr(
        module, "layer_idx", None
    )

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if softcap is not None:
            return _soft_capped(q, k, v, mask, scaling, dropout, softcap)
        if _products_are_faster(q, k, v) and not dropout:
            return _by_products(q, k, v, mask, scaling)
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    # under autocast rotary positions leave queries and keys in float32; cast them once, not tree by tree
    query, key = query.to(value.dtype), key.to(value.dtype)
    pieces: list[Tensor] = []
    parts = zip(*(torch.split(tensor, plan.sizes, 2) for tensor in (query, key, value)), strict=True)
    for tree, (q, k, v) in enumerate(parts):
        pieces += _attend_tree(attend, q, k, v, attention_mask, tree, read_only)
    if not read_only:
        return torch.cat(pieces, dim=2).transpose(1, 2), None
    out = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
    rows = plan.cached("rows", lambda: read_rows(plan))
    return out.index_copy(1, rows, torch.cat(pieces, dim=2).transpose(1, 2).to(out.dtype)), None


def _who_sees_whom(module: torch.nn.Module, query: Tensor, key: Tensor, mask: Any) -> Tensor | None:
    """(N or 1, 1, 1, Q, K) bool of padded sequences, or (Q, K); None where transformers says it otherwise."""
    if mask is None and not getattr(module, "is_causal", True):
        return torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim == 4:
        return mask[:, :, None]
    return None


def _attend_tree(
    attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: TreeMask, tree: int, read_only: bool
) -> list[Tensor]:
    plan = mask.plan
    prompt, answers = plan.shape[tree]
    longest = prompt + max(answers)
    causal = mask.causal(longest)
    rule = causal_mask_function if causal else mask.rule
    if read_only:
        seen = plan.mask(tree, rule, "read")
        return [attend(q[:, :, plan.cached(("rows", tree), lambda: seen_rows(plan, tree))], k, v, seen)]
    pieces = []
    if prompt:
        whole = None if causal else plan.mask(tree, rule, "prompt")[:, :prompt]
        pieces.append(attend(q[:, :, :prompt], k[:, :, :prompt], v[:, :, :prompt], whole))
    if len(answers) == 1 and causal and not prompt:
        return [attend(q, k, v, None)]
    total = sum(answers)
    separate = sum(n * (prompt + n) for n in answers)
    if total * (prompt + total) <= 2 * separate:
        pieces.append(attend(q[:, :, prompt:], k, v, plan.mask(tree, rule, "answers")))
        return pieces
    start = prompt
    for length in answers:  # many answers: a joint mask would be mostly empty
        own = slice(start, start + length)
        keys = torch.cat([k[:, :, :prompt], k[:, :, own]], dim=2)
        values = torch.cat([v[:, :, :prompt], v[:, :, own]], dim=2)
        positions = torch.arange(prompt + length, device=plan.device)
        visible = rule(0, 0, positions[prompt:, None], positions[None, :])
        pieces.append(attend(q[:, :, own], keys, values, visible))
        start += length
    return pieces


def seen_rows(plan: TreePlan, tree: int) -> Tensor:
    """(K,) last token of each answer, counted from the beginning of its tree."""
    prompt, answers = plan.shape[tree]
    return (prompt + torch.tensor(answers).cumsum(0) - 1).to(plan.device)


def read_rows(plan: TreePlan) -> Tensor:
    """(N,) last token of each answer in the packed row."""
    starts = torch.tensor([0, *plan.sizes]).cumsum(0)[:-1].tolist()
    return torch.cat([start + seen_rows(plan, tree) for tree, start in enumerate(starts)])


def _products_are_faster(q: Tensor, k: Tensor, v: Tensor) -> bool:
    # in bfloat16 the backward pass of the CPU's SDPA is slow; under autocast only values have that type here
    bf16_training = torch.is_grad_enabled() and q.requires_grad and v.dtype == torch.bfloat16
    return bf16_training and v.device.type == "cpu" and k.shape[2] <= _PRODUCT_LIMIT


def _by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Attention as matrix products, the queries that share a key head stacked; no key is copied."""
    if mask is None and q.shape[2] > _PRODUCT_ROWS:  # causal: each block of rows sees the keys up to its end
        ends = range(_PRODUCT_ROWS, q.shape[2] + _PRODUCT_ROWS, _PRODUCT_ROWS)
        blocks = [
            _by_products(q[:, :, end - _PRODUCT_ROWS : end], k[:, :, :end], v[:, :, :end], None, scaling)
            for end in ends
        ]
        return torch.cat(blocks, dim=2)
    heads, rows, keys = k.shape[1], q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    scale = q.shape[3] ** -0.5 if scaling is None else scaling
    stacked = (q * scale).to(v.dtype).reshape(q.shape[0], heads, -1, q.shape[3])
    logits = torch.matmul(stacked, k.to(v.dtype).transpose(2, 3))
    logits = logits.reshape(q.shape[0], heads, -1, rows, keys)
    # added, so that it has no backward pass; finite, as a padding token may see nothing
    hidden = logits.new_zeros(mask.shape).masked_fill_(~mask, torch.finfo(logits.dtype).min)
    return torch.matmul((logits + hidden).softmax(-1).flatten(2, 3), v).reshape(*q.shape[:3], v.shape[3])


def _soft_capped(
    q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float | None, dropout: float, cap: float
) -> Tensor:
    """Attention with logits squashed to cap·tanh(logits / cap) (Gemma 2, arXiv 2408.00118, section 2)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    logits = torch.matmul(q, k.transpose(2, 3)).float() * scale
    logits = cap * torch.tanh(logits / cap)
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        mask = mask.tril(k.shape[2] - q.shape[2])  # with a cache the queries are the last of the keys
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    weights = torch.nn.functional.dropout(logits.softmax(-1), dropout).to(v.dtype)
    return torch.matmul(weights, v)


def _flex_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """As :func:`_tree_attention`, all trees in one kernel; the read-only layer is left to SDPA."""
    layer = getattr(module, "layer_idx", None)
    tree = isinstance(attention_mask, TreeMask)
    if not tree or dropout or attention_mask.plan.read_only_layer == layer:
        return _tree_attention(module, query, key, value, attention_mask, scaling, dropout, softcap, **extra)
    _refuse_unknown(extra)
    plan = attention_mask.plan
    block_mask = plan.cached(("flex", attention_mask.rule), lambda: _block_mask(attention_mask))

    limit = softcap or 1.0

    def cap(score: Tensor, *_: Any) -> Tensor:
        return limit * torch.tanh(score / limit)

    out = _compiled_flex()(
        query,
        key,
        value,
        score_mod=cap if softcap is not None else None,
        block_mask=block_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous(), None


def _block_mask(mask: TreeMask) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    plan = mask.plan
    segments = plan.segments()
    position = torch.cat([p for p, _ in segments])
    number = torch.cat([n for _, n in segments])
    tree = torch.repeat_interleave(
        torch.arange(len(plan.sizes), device=plan.device), torch.tensor(plan.sizes, device=plan.device)
    )
    rule = mask.rule

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Any:
        own = (number[k] == -1) | (number[q] == number[k])
        return (tree[q] == tree[k]) & own & rule(batch, head, position[q], position[k])

    size = len(position)
    return create_block_mask(visible, None, None, size, size, device=str(plan.device), _compile=True)


_flex: list[Any] = []


def _compiled_flex() -> Any:
    if not _flex:
        from torch.nn.attention.flex_attention import flex_attention

        _flex.append(torch.compile(flex_attention, dynamic=True))
    return _flex[0]


AttentionInterface.register(NAME, _tree_attention)
AttentionMaskInterface.register(NAME, _mask)
AttentionInterface.register(FLEX, _flex_attention)
AttentionMaskInterface.register(FLEX, _mask)
