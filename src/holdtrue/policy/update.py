"""Learning from a step's answers: log-probabilities and gradients, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from holdtrue.policy.algorithms import Algorithm
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.inputs import LossInputs, Mean, Scored
from holdtrue.policy.logprobs import token_logprobs
from holdtrue.policy.samples import PaddedSamples


@dataclass(frozen=True)
class Drawing:
    """What a token is drawn from, for every forward of a run; ``banned`` (B,) ids."""

    decoding: Decoding
    banned: Tensor


def passes(padded: PaddedSamples, rows: Tensor, most: int) -> Iterator[tuple[Tensor, PaddedSamples]]:
    """Rows (R,) in passes of ``most``, those of like length together, less padding that all of them have."""
    lengths = padded.attention_NT.sum(1)
    for places in torch.split(rows[lengths[rows].argsort(stable=True)], most):
        width = int(lengths[places].max())
        yield (
            places,
            PaddedSamples(
                padded.ids_NT[places, :width],
                padded.attention_NT[places, :width],
                padded.completion_NT[places, :width],
                padded.logprobs_NT[places, :width],
            ),
        )


@torch.no_grad()
def logprobs_of(policy: Any, padded: PaddedSamples, drawing: Drawing, rows_per_pass: int) -> Tensor:
    """(N, T) log-probabilities of all answers' tokens, 0 elsewhere."""
    found = torch.zeros_like(padded.logprobs_NT)
    every = torch.arange(len(found), device=found.device)
    for places, part in passes(padded, every, rows_per_pass):
        values = token_logprobs(policy, part, drawing.decoding, drawing.banned)
        found[places, : values.shape[1]] = values
    return found


@dataclass(frozen=True)
class Learnt:
    """What one pass over a step's answers gave beside gradients.

    Attributes:
        loss: Σ weight·term and Σ weight, which the gradients are still to be divided by.
        metrics: the algorithm's means.
        logprobs: (N, T) of the policy as it was before the update; 0 in rows that do not count.
    """

    loss: Mean
    metrics: dict[str, Mean]
    logprobs: Tensor


def add_gradients(
    policy: Any,
    algorithm: Algorithm,
    scored: Scored,
    advantages: Tensor,
    padded: PaddedSamples,
    drawing: Drawing,
    rows_per_pass: int,
) -> Learnt:
    """Add the gradient of Σ weight·term over the answers that count to the policy's parameters.

    No way to cut the step into passes changes the sum, but for rounding.
    """
    zero = padded.logprobs_NT.new_zeros(())
    learnt = Learnt(Mean(zero, zero), {}, torch.zeros_like(padded.logprobs_NT))
    counted = scored.counted
    for places, part in passes(padded, scored.keep.nonzero()[:, 0], rows_per_pass):
        width = part.ids_NT.shape[1]
        logprobs = token_logprobs(policy, part, drawing.decoding, drawing.banned)
        reference = scored.reference_logprobs
        out = algorithm.loss(
            LossInputs(
                logprobs=logprobs,
                old_logprobs=part.logprobs_NT,
                mask=counted[places, :width],
                advantages=advantages[places] if advantages.ndim == 1 else advantages[places, :width],
                max_new_tokens=drawing.decoding.max_new_tokens,
                kl_coef=scored.kl_coef,
                reference_logprobs=None if reference is None else reference[places, :width],
            )
        )
        out.loss.total.backward()  # type: ignore[no-untyped-call]
        learnt.logprobs[places, :width] = logprobs.detach()
        added = Mean(out.loss.total.detach(), out.loss.weight.detach())
        metrics = {
            name: learnt.metrics[name] + mean if name in learnt.metrics else mean
            for name, mean in out.metrics.items()
        }
        learnt = replace(learnt, loss=learnt.loss + added, metrics=metrics)
    return learnt
