"""What the algorithms' losses are made of: the clipped surrogate and three ways to average tokens.

A way to average gives weights (N, T) and their divisor (), so that a step's loss is Σ weight·term / Σ
divisor, for the surrogate and for whatever is added to it. A row without tokens is as if it were not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.policy.kl import LARGEST_EXPONENT

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.policy.inputs import LossInputs

Average = tuple["Tensor", "Tensor"]


def token_mean(inputs: LossInputs) -> Average:
    """Every token of the step counts the same, so a long answer counts more (DAPO, arXiv 2503.14476)."""
    weights = inputs.mask.to(inputs.logprobs.dtype)
    return weights, weights.sum()


def sequence_mean(inputs: LossInputs) -> Average:
    """Every answer counts the same, its tokens averaged, so a token of a long answer counts less
    (GRPO, arXiv 2402.03300, eq. 3)."""
    weights = inputs.mask.to(inputs.logprobs.dtype)
    return weights / weights.sum(1, keepdim=True).clamp(min=1), _rows(inputs)


def fixed_length(inputs: LossInputs) -> Average:
    """An answer's tokens are summed and divided by the longest answer there may be, which favours no length
    (Dr. GRPO, arXiv 2503.20783, section 3.2)."""
    return inputs.mask.to(inputs.logprobs.dtype) / inputs.max_new_tokens, _rows(inputs)


def _rows(inputs: LossInputs) -> Tensor:
    return inputs.mask.any(1).sum().to(inputs.logprobs.dtype)


def surrogate(
    log_ratio: Tensor, advantages: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-min(ρ·A, clip(ρ, 1 - low, 1 + high)·A) with ρ = exp(log_ratio) (PPO, arXiv 1707.06347, eq. 7).

    Returns:
        the terms, to be made small; ρ; where clipping has cut the gradient (bool). Shapes are those of the
        arguments, broadcast.
    """
    ratio = log_ratio.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
    terms = -(ratio * advantages).minimum(ratio.clamp(1 - low, 1 + high) * advantages)
    cut = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    return terms, ratio, cut


def value_terms(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """½·max((V - R)², (V_clipped - R)²), with V held within ``clip`` of what it was (arXiv 2403.17031).

    Returns:
        the terms, and where clipping has cut the gradient (bool), both (N, T).
    """
    free = (values - returns).square()
    held = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    return free.maximum(held) / 2, held > free
