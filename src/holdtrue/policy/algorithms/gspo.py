"""GSPO: the ratio of the whole answer, per token (arXiv 2507.18071, eq. 5 to 7).

    A    = (r - mean) / std of the group
    s    = (π(answer) / π_old(answer))^(1 / length)
    loss = mean over answers of -min(s·A, clip(s)·A)

An answer is clipped as a whole, so that single unlikely tokens, or experts routed another way, add no noise.
Mean log-ratios are far smaller than those of tokens, and so are the clips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.policy import advantages
from holdtrue.policy.algorithms import Algorithm
from holdtrue.policy.inputs import LossInputs, LossOutputs, Scored
from holdtrue.policy.objectives import sequence_mean

if TYPE_CHECKING:
    from torch import Tensor


class GSPO(Algorithm):
    """Group-relative advantages with one length-normalised ratio per answer; for mixtures of experts."""

    clip_low: float = Field(3e-4, gt=0, le=1)
    """The answer's ratio is clipped below 1 - clip_low (arXiv 2507.18071, section 5.1: 3e-4)."""
    clip_high: float = Field(4e-4, gt=0)
    """The answer's ratio is clipped above 1 + clip_high (there: 4e-4)."""

    def advantages(self, scored: Scored) -> Tensor:
        """(N,)"""
        return advantages.grpo(self.penalised(scored), scored.keep, scored.group)

    def loss(self, inputs: LossInputs) -> LossOutputs:
        """Mean over answers, with the ratio of the whole answer per token."""
        average = weights, _ = sequence_mean(inputs)
        log_ratio = (inputs.log_ratio * weights).sum(1, keepdim=True)
        return self.clipped(inputs, log_ratio, average)
