"""REINFORCE++: no critic and no group needed; rewards to go, whitened over the whole step (arXiv 2501.03262).

    A_t  = (reward - β·Σ_{i >= t} KL_i), whitened over all tokens of the step
    loss = mean over tokens of -min(ρ_t·A_t, clip(ρ_t)·A_t)

Its variant for groups (``group_baseline``) first takes the group's mean from the reward. The paper then puts
the KL in the loss: ``kl_in: loss, kl_estimator: k2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.policy.advantages import dr_grpo, reinforce_pp, token_rewards
from holdtrue.policy.algorithms import Algorithm
from holdtrue.policy.inputs import LossInputs, LossOutputs, Scored
from holdtrue.policy.objectives import token_mean

if TYPE_CHECKING:
    from torch import Tensor


class ReinforcePP(Algorithm):
    """REINFORCE with advantages whitened over the step; works with one answer per prompt."""

    kl_coef: float = Field(0.01, ge=0)
    """β, weight of the KL to the reference policy, in reward per nat (OpenRLHF: 0.01)."""
    group_baseline: bool = False
    """Take the mean of its group from each reward first, for prompts of different difficulty."""

    def advantages(self, scored: Scored) -> Tensor:
        """(N, T) whitened over the tokens that count."""
        rewards = scored.rewards
        if self.group_baseline:
            rewards = dr_grpo(rewards, scored.keep, scored.group)
        return reinforce_pp(token_rewards(rewards, self.penalties(scored), scored.counted), scored.counted)

    def loss(self, inputs: LossInputs) -> LossOutputs:
        """Mean over tokens."""
        return self.clipped(inputs, inputs.log_ratio, token_mean(inputs))
