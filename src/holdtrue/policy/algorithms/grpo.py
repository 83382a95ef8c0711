"""GRPO: rewards standardised within their group, KL in the loss (arXiv 2402.03300, eq. 3 and 4).

A    = (r - mean) / std of the group
loss = mean over answers of (mean over its tokens of -min(ρ_t·A, clip(ρ_t)·A) + β·k3_t)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdtrue.policy import advantages
from holdtrue.policy.algorithms import Algorithm
from holdtrue.policy.inputs import LossInputs, LossOutputs, Scored
from holdtrue.policy.kl import Estimator
from holdtrue.policy.objectives import sequence_mean

if TYPE_CHECKING:
    from torch import Tensor


class GRPO(Algorithm):
    """Group-relative advantages, each answer counting once."""

    kl_coef: float = Field(0.04, ge=0)
    """β, weight of the KL to the reference policy (arXiv 2402.03300, section 4.2: 0.04)."""
    kl_in: Literal["reward", "loss"] = "loss"
    """Where the KL stands. In the reward it is that of the whole answer; in the loss it is averaged as the
    rest."""
    kl_estimator: Estimator = "k3"
    """Of the KL of a token: k1 = x, k2 = x²/2, k3 = e^-x - 1 + x with x = log π/π_ref. k1 only in the
    reward."""

    def advantages(self, scored: Scored) -> Tensor:
        """(N,)"""
        return advantages.grpo(self.penalised(scored), scored.keep, scored.group)

    def loss(self, inputs: LossInputs) -> LossOutputs:
        """Mean over answers of the mean over their tokens."""
        return self.clipped(inputs, inputs.log_ratio, sequence_mean(inputs))
