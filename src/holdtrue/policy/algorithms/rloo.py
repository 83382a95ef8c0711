"""RLOO: each answer against the mean of the others, an answer being one action (arXiv 2402.14740).

    A    = R - mean of the other R of the prompt,    R = reward - β·KL of the answer
    loss = mean over answers of -min(ρ·A, clip(ρ)·A),    ρ = π(answer) / π_old(answer)

On the policy that sampled, ρ = 1 and the gradient is that of REINFORCE, -A·∇ log π(answer), as in the paper;
clipping acts only when a step's answers are used more than once.
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


class RLOO(Algorithm):
    """REINFORCE with a leave-one-out baseline; the first to try with a reward model."""

    kl_coef: float = Field(0.05, ge=0)
    """β, weight of the KL to the reference policy, in reward per nat (TRL: 0.05)."""

    def advantages(self, scored: Scored) -> Tensor:
        """(N,)"""
        return advantages.rloo(self.penalised(scored), scored.keep, scored.group)

    def loss(self, inputs: LossInputs) -> LossOutputs:
        """Mean over answers, with the ratio of the whole answer."""
        return self.clipped(inputs, inputs.log_ratio.sum(1, keepdim=True), sequence_mean(inputs))
