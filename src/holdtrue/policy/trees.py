"""A policy reads the answers to one prompt as a token tree: the prompt once, whatever the number of answers.

A full forward of N padded rows computes N · (longest row) tokens, a tree only prompt + Σ answers. Every token
still sees what it would see alone (:mod:`holdtrue.tokens.attention`), so log-probabilities and gradients are
those of the padded rows but for rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdtrue.policy.request import accepted, evaluating, unwrapped
from holdtrue.policy.samples import PaddedSamples, Samples
from holdtrue.tokens import attention
from holdtrue.tokens.attention import TreePlan

_log = logging.getLogger(__name__)
_REFUSALS = (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError, IndexError)
"""What models raise that cannot be read otherwise than transformers reads them."""
_TOLERANCE = 1e-3
"""Largest difference of logits, as a share of the largest logit, of a model that reads trees exactly."""


@dataclass(frozen=True)
class Laid:
    """Rows laid out as trees, one behind the other; neighbours that answer the same prompt share it.

    Attributes:
        input_ids, position_ids: (1, T); positions go on from the prompt's end in each answer.
        before: (R,) where in the row the token before each answer token stands, in the order of
            ``completion_NT.nonzero()``.
    """

    input_ids: Tensor
    position_ids: Tensor
    plan: TreePlan
    before: Tensor

    @contextmanager
    def inputs(self) -> Iterator[dict[str, Any]]:
        """Arguments of the forward pass that is made inside."""
        with attention.laid_out(self.plan):
            yield {
                "input_ids": self.input_ids,
                "position_ids": self.position_ids,
                "attention_mask": torch.ones_like(self.input_ids),  # else positions are taken for packing
                "use_cache": False,
            }


def lay_out(padded: PaddedSamples) -> Laid:
    """The rows that have an answer as trees."""
    ids_NT, answers_NT = padded.ids_NT.cpu().numpy(), padded.completion_NT.cpu().numpy()
    shape: list[tuple[int, list[int]]] = []
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    before: list[np.ndarray] = []
    at, last = 0, b""
    for row in np.flatnonzero(answers_NT.any(1)):
        start, length = int(answers_NT[row].argmax()), int(answers_NT[row].sum())
        prompt = ids_NT[row, :start]
        if not shape or prompt.tobytes() != last:
            shape.append((start, []))
            ids.append(prompt)
            positions.append(np.arange(start))
            at, last = at + start, prompt.tobytes()
            end = at - 1  # of the prompt
        shape[-1][1].append(length)
        ids.append(ids_NT[row, start : start + length])
        positions.append(np.arange(start, start + length))
        before += [np.array([end]), np.arange(at, at + length - 1)]
        at += length

    device = padded.ids_NT.device

    def tensor(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device)

    return Laid(tensor(ids)[None], tensor(positions)[None], TreePlan(shape, device), tensor(before))


def reads_trees(model: Any) -> bool:
    """Whether a decoder was found to read trees exactly."""
    return bool(unwrapped(model).config._attn_implementation == attention.NAME)


def share_prompts(policy: Any) -> None:
    """Let a policy read trees from now on, if its logits are the same then; else it reads rows in full, and
    the log says why."""
    inner = unwrapped(policy)
    if reads_trees(inner):
        return
    original = inner.config._attn_implementation
    samples = _probe(inner.config.get_text_config().vocab_size).padded(0, policy.device)
    try:
        with torch.no_grad(), evaluating(policy):
            alone = logits_before(policy, samples)
            inner.set_attn_implementation(attention.NAME)
            if not reads_trees(inner):
                raise NotImplementedError("its attention cannot be exchanged")
            error = float((logits_before(policy, samples) - alone).abs().max() / alone.abs().max())
        if not error <= _TOLERANCE * (1 if alone.dtype == torch.float32 else 50):  # bfloat16 has 8 bits
            raise NotImplementedError(f"trees change its logits by {error:.1e} of the largest")
    except _REFUSALS as refusal:
        inner.set_attn_implementation(original)
        why = str(refusal).splitlines()[0][:160]
        _log.warning(f"{type(inner).__name__}: {why}; prompts are computed once for each answer in learning")


def logits_before(policy: Any, padded: PaddedSamples) -> Tensor:
    """(R, V) logits from which each of the R tokens of all answers was drawn, row by row."""
    keeps = "logits_to_keep" in accepted(policy)
    if reads_trees(policy):
        laid = lay_out(padded)
        with laid.inputs() as inputs:
            out = policy(**inputs, **({"logits_to_keep": laid.before} if keeps else {}))
        logits: Tensor = out.logits[0]
        return logits if keeps else logits[laid.before]
    rows, places = padded.completion_NT.nonzero(as_tuple=True)
    width = padded.ids_NT.shape[1]
    keep = width + 1 - int(places.min())
    out = policy(
        input_ids=padded.ids_NT,
        attention_mask=padded.attention_NT.long(),
        use_cache=False,
        **({"logits_to_keep": keep} if keeps else {}),
    )
    every: Tensor = out.logits
    return every[rows, places - 1 - (width - every.shape[1])]


def _probe(vocabulary: int) -> Samples:
    """Short answers to two prompts, one of them twice, so that a window of a few tokens is passed too."""
    ids = np.random.default_rng(0).integers(0, vocabulary, 64)
    answers = [ids[20:31], ids[31:36], ids[36:40], ids[40:47]]
    empty = [np.zeros(len(one), dtype=np.float32) for one in answers]
    return Samples([ids[:9], ids[9:20]], 2, answers, empty, ["length"] * 4)
