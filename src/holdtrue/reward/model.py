"""The reward model: backbone, pool and head; its kind makes the reward of what the head gives.

    logits = W · pool(h)                     [reward units, free offset and scale]

Backbone and head are those of transformers' ``...ForSequenceClassification``, so a saved model is loaded by
anything that loads those. A decoder's state is pooled at the last real token by position or attention
mask, never by comparing ids with the padding token; an encoder's classifier is run as it is up to its last
linear layer. That layer runs in float32 whatever the backbone's precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdtrue.reward.gate import Gate
from holdtrue.reward.kinds import RewardKind
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.kinds.scalar import Scalar
from holdtrue.reward.language import LanguageHead
from holdtrue.reward.last_layer import ReadOnlyRows, last_layer
from holdtrue.reward.pools import (
    POOLS,
    Pool,
    answer_tokens,
    classifier_input,
    first_position,
    head_name,
    pool_packed,
)
from holdtrue.settings import Layout
from holdtrue.tokens import attention
from holdtrue.tokens.batches import (
    PaddedBatch,
    TreeBatch,
    fill,
    fill_rectangles,
    lay_end_to_end,
    lay_out,
    pad,
    sequences_of,
)
from holdtrue.tokens.conversation import Ids
from holdtrue.tokens.tree import Tree, grow

Batch = TreeBatch | PaddedBatch
LAYOUTS = {"tree": "token trees", "packed": "end to end"}
"""What the layouts without padding are called."""
_REFUSALS = (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError, IndexError)
"""What models raise that cannot be read otherwise than transformers reads them."""


@dataclass(frozen=True)
class RewardOutput:
    """What a reward model says of a batch; knows nothing of how the batch was laid out.

    Attributes:
        rewards: (N,) float32, one number per answer, for kinds that score one answer.
        logits: (N, K) class logits or aspect scores.
        values: (sum of answer lengths,) per-token values, packed.
        steps: (M,) float32, a value for each step of all answers, the logit of P(right).
        offsets: (N + 1,) where each answer's values begin.
        logprobs: (sum of answer lengths,) float32, log-probability of each answer token, packed.
        hidden: (N, D) float32, the pooled state.
        gap: (B,) logit of P(first preferred), for kinds that compare two answers.
        likeliest: (M,) bool, whether a learned token is the likeliest, for a policy; its ``logprobs`` are of
            these tokens too.
        divergence: (M,) nats, KL(reference || policy) where each of them is predicted.
    """

    rewards: Tensor | None = None
    logits: Tensor | None = None
    values: Tensor | None = None
    steps: Tensor | None = None
    offsets: Tensor | None = None
    logprobs: Tensor | None = None
    hidden: Tensor | None = None
    gap: Tensor | None = None
    likeliest: Tensor | None = None
    divergence: Tensor | None = None


class RewardModel(nn.Module):
    """A decoder or an encoder with a linear head.

    Args:
        classifier: a transformers sequence classifier (or a peft model around one), or a pooled encoder; a
            causal LM where only :meth:`logprobs` is wanted.
        pad_id: padding token of the padded layout.
        kind: how the reward is made; the head has as many outputs as it has labels.
        pool: what the head reads.
        separator: token after which token types are 1, where the model is given token types.

    Attributes:
        layout: ``tree`` where the model reads token trees exactly, ``packed`` where it is an encoder that
            reads sequences laid end to end exactly, else ``padded``.
        layout_reason: why it is ``padded``.
        bf16: compute the backbone under bfloat16 autocast.
        gate: weighs the aspects by the prompt, for kinds that have one, once it is fitted.
        language_head: gives the log-probabilities of answers' tokens, where a loss reads them.
    """

    def __init__(
        self,
        classifier: Any,
        pad_id: int,
        kind: RewardKind | None = None,
        pool: Pool = "last",
        separator: int | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.kind = kind or Scalar()
        self.pad_id = pad_id
        self.pool = pool
        accepted = inspect.signature(self._reader.forward).parameters
        self.separator = separator if "token_type_ids" in accepted else None
        self._accepts_positions = "position_ids" in accepted and pool == "last"
        self._accepts_cache = "use_cache" in accepted or pool == "last"
        self.bf16 = False
        self.layout: Layout = "padded"
        self.layout_reason: str | None = "not examined"
        self.gate: Gate | None = None
        self.language_head: LanguageHead | None = None
        self._read_only: ReadOnlyRows | None = None

    @property
    def inner(self) -> Any:
        """The sequence classifier itself, without the adapter's wrapper."""
        return (
            self.classifier.get_base_model() if hasattr(self.classifier, "peft_config") else self.classifier
        )

    @property
    def backbone(self) -> Any:
        """The transformer without its head."""
        return getattr(self.inner, self.inner.base_model_prefix)

    @cached_property
    def head_name(self) -> str:
        """Where the classifier has its head."""
        return head_name(self.inner)

    @property
    def head(self) -> nn.Module:
        """The linear map from the pooled state to the kind's outputs."""
        head: nn.Module = self.inner.get_submodule(self.head_name)
        return head

    @property
    def head_weights(self) -> dict[str, nn.Parameter]:
        """What of the head is read, by name: an adapter keeps the head it began with beside it."""
        named = self.head.named_parameters()
        return {name: part for name, part in named if "original_module" not in name}

    @cached_property
    def _first_position(self) -> int:
        return first_position(self.inner)

    @property
    def _reader(self) -> Any:
        """What a padded batch is given to."""
        return self.inner if self.pool == "cls" else self.backbone

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, batch: Batch) -> RewardOutput:
        """What the kind gives of a batch's answers."""
        gate, steps = self.gate, self.kind.marks == "steps"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self._hidden(batch, marks=steps or gate is not None)
            logprobs = self.language_head(hidden, batch) if self.language_head is not None else None
            pooled = at_marks(hidden, batch) if steps else self._pool(hidden, batch)
        with torch.autocast(self.device.type, enabled=False):
            pooled = pooled.float()
            ends = (batch.targets.marks if steps else batch.targets.length).cumsum(0) - 1
            out = replace(self.kind.read(self.head(pooled), pooled, ends), logprobs=logprobs)
            if gate is None:
                return out
            assert isinstance(self.kind, Aspects)
            aspects = self.kind.without_verbosity(given(out.logits))
            return replace(out, rewards=(gate(at_marks(hidden, batch).float()) * aspects).sum(1))

    def logprobs(self, batch: Batch) -> Tensor:
        """(sum of answer lengths,) float32 log-probability of each answer token, by the language head."""
        assert self.language_head is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            found: Tensor = self.language_head(self._hidden(batch), batch)
        return found

    def batch(self, trees: Sequence[Tree], side: str = "right") -> Batch:
        """Trees laid out as this model takes them, on its device."""
        if self.layout == "tree":
            return lay_out(trees, self.device)
        if self.layout == "packed":
            return lay_end_to_end(trees, self.device, self.separator, self._first_position)
        return pad(trees, self.pad_id, self.device, side, self.separator)

    def pack(self, trees: Sequence[Tree], budget: int) -> list[list[int]]:
        """Indices of trees dealt into batches of at most ``budget`` tokens in this model's layout."""
        if self.layout != "padded":
            return fill([self.size(tree) for tree in trees], budget)
        return fill_rectangles([t.longest for t in trees], [len(t.answers) for t in trees], budget)

    def size(self, tree: Tree) -> int:
        """Tokens a tree costs in this model's layout."""
        if self.layout == "padded":
            return tree.longest * len(tree.answers)
        return tree.tokens if self.layout == "tree" else tree.real_tokens

    def recompute_activations(self) -> None:
        """Keep no activations inside layers; the backward pass computes them again."""
        inner = self.inner  # transformers renamed the method
        name = "activation_checkpointing_enable"
        getattr(inner, name if hasattr(inner, name) else "gradient_checkpointing_enable")(
            {"use_reentrant": False}
        )

    def examine(self, flex: bool = False) -> None:
        """Find out whether the model reads a row of trees (encoders: of sequences) exactly; if so use it.

        Random short trees are computed in one row and sequence by sequence; where the pooled states differ
        (or the model refuses) the padded layout is kept and ``layout_reason`` says why. Encoders do so on the
        CPU: attention goes sequence by sequence, which was not measured elsewhere.
        """
        self.layout, self.layout_reason = "padded", None
        if self.pool == "cls" or (self.pool != "last" and self.device.type != "cpu"):
            why = "its own classifier makes cls" if self.pool == "cls" else "end to end is for the CPU alone"
            self.layout_reason = f"{type(self.backbone).__name__}: an encoder shares no prompts, and {why}"
            self.quicken_padded()
            return
        name = attention.FLEX if flex else attention.NAME
        original = self.inner.config._attn_implementation
        try:
            self._exchange_attention(name)
            found = last_layer(self.backbone) if self.pool == "last" else None
            if found is not None and self._read_only is None:
                self._read_only = ReadOnlyRows(*found)
            self.layout = "tree" if self.pool == "last" else "packed"
            error = self._row_error()
            if error > 1e-3:
                what = "trees" if self.pool == "last" else "sequences end to end"
                raise NotImplementedError(f"{what} change its states by {error:.1e}")
        except _REFUSALS as error:
            if self._read_only is not None:
                self._read_only.remove()
                self._read_only = None
            self.inner.set_attn_implementation(original)
            self.layout = "padded"
            self.layout_reason = f"{type(self.backbone).__name__}: {str(error).splitlines()[0][:160]}"

    def quicken_padded(self) -> None:
        """Let padded sequences be read by our attention, whose backward pass is quicker on the CPU."""
        original = self.inner.config._attn_implementation
        try:
            self._exchange_attention(attention.NAME)
        except _REFUSALS:
            self.inner.set_attn_implementation(original)

    def _exchange_attention(self, name: str) -> None:
        self.inner.set_attn_implementation(name)
        if self.inner.config._attn_implementation != name:
            raise NotImplementedError("its attention cannot be exchanged")

    def _hidden(self, batch: Batch, *, marks: bool = False) -> Tensor:
        """(1, T, D) or (N, L, D) states of the last layer, at least where they are read; ``cls``: (N, D)."""
        if isinstance(batch, TreeBatch):
            only_ends = not (self.kind.tokenwise or self.language_head is not None or marks)
            batch.plan.read_only_layer = self._read_only.index if self._read_only and only_ends else None
            types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
            cache = {"use_cache": False} if self._accepts_cache else {}
            with attention.laid_out(batch.plan):
                packed: Tensor = self.backbone(
                    input_ids=batch.input_ids,
                    position_ids=batch.position_ids,
                    attention_mask=torch.ones_like(batch.input_ids),  # else positions are taken for packing
                    **types,
                    **cache,
                ).last_hidden_state
            return packed
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        inputs |= {"position_ids": batch.position_ids} if self._accepts_positions else {}
        inputs |= {"use_cache": False} if self._accepts_cache else {}
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids
        if self.pool == "cls":
            return classifier_input(self.inner, self.head, inputs)
        padded: Tensor = self.backbone(**inputs).last_hidden_state
        return padded

    def _pool(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(N, D) states the head reads; (sum of answer lengths, D) for kinds that read every token."""
        if self.pool == "cls":
            return hidden
        if isinstance(batch, TreeBatch):
            if self.pool != "last":
                return pool_packed(self.pool, hidden, batch.plan.sizes)
            return hidden[0, batch.answer_rows if self.kind.tokenwise else batch.rows]
        if self.kind.tokenwise:
            return answer_tokens(hidden, batch.attention_mask, batch.targets.length)
        return POOLS[self.pool](hidden, batch.attention_mask)

    @torch.no_grad()
    def padding_error(self, sequences: Sequence[Ids]) -> float:
        """Largest difference between pooled states alone and in one padded batch, relative to the largest."""
        batches = [[ids] for ids in sequences] + [sequences]
        laid = [self.batch([grow([ids]) for ids in batch]) for batch in batches]
        *alone, together = [self._pool(self._hidden(one), one).float() for one in laid]
        return float((torch.cat(alone) - together).abs().max() / together.abs().max().clamp_min(1e-6))

    @torch.no_grad()
    def _row_error(self) -> float:
        vocabulary = self.inner.config.get_text_config().vocab_size
        ids = np.random.default_rng(0).integers(0, vocabulary, 48).astype(np.int32)
        ids[ids == self.pad_id] = (self.pad_id + 1) % vocabulary  # some encoders find positions by it
        sequences = [ids[:9], np.concatenate([ids[:6], ids[20:31]]), np.concatenate([ids[:6], ids[31:36]])]
        trees = [grow(sequences), grow([ids[36:43]]), grow([ids[:2], ids[1:4]])]
        was_training = self.training
        self.eval()
        try:
            packed = self.batch(trees)
            together = self._pool(self._hidden(packed), packed).float()
            if self.kind.tokenwise:
                together = together[packed.targets.length.cumsum(0) - 1]
            singles = [
                pad([grow([ids])], self.pad_id, self.device, separator=self.separator)
                for ids in sequences_of(trees)
            ]
            alone = torch.cat([self._pool(self._hidden(one), one).float()[-1:] for one in singles])
        finally:
            self.train(was_training)
        error = ((together - alone).abs().max() / alone.abs().max().clamp_min(1e-6)).item()
        tolerance = 1 if self.inner.dtype == torch.float32 else 50  # bfloat16 has 8 bits
        return error / tolerance if error == error else float("inf")


def given(tensor: Tensor | None) -> Tensor:
    """A tensor that has to be there."""
    assert tensor is not None
    return tensor


def at_marks(hidden: Tensor, batch: Batch) -> Tensor:
    """(M, D) states at the marked tokens."""
    if not len(batch.mark_rows):
        raise ValueError("no token of the batch is marked: its encoder was not asked for marks")
    return hidden.flatten(0, 1)[batch.mark_rows]


@torch.no_grad()
def sees_ahead(backbone: Any, device: torch.device) -> bool:
    """Whether a token's state hangs on the tokens after it, as in encoders; found out by trying."""
    ids = torch.arange(2, 8, device=device)[None]
    changed = ids.clone()
    changed[0, -1] = 1
    first, other = (backbone(input_ids=i).last_hidden_state[0, 0] for i in (ids, changed))
    return not torch.equal(first, other)


def renew_head(head: nn.Linear, seed: int) -> None:
    """Fresh head: w ~ N(0, 1 / (D + 1)) (arXiv 2009.01325, appendix B), any bias 0, float32."""
    head.float()
    with torch.no_grad():
        head.weight.copy_(initial_head(head.out_features, head.in_features, seed))
        if head.bias is not None:
            head.bias.zero_()


def initial_head(outputs: int, width: int, seed: int) -> Tensor:
    """(outputs, width) weights of a fresh head."""
    generator = torch.Generator().manual_seed(seed)
    weight: Tensor = torch.randn(outputs, width, generator=generator) / (width + 1) ** 0.5
    return weight
