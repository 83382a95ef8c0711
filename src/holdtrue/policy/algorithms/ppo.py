"""PPO with a critic, as RLHF does it (arXiv 2203.02155; details of arXiv 2403.17031).

    r_t  = -β·KL_t, plus the reward at the last token; scaled by their std, their mean kept
    A    = GAE(r, V), whitened over the step's tokens
    loss = mean over tokens of -min(ρ_t·A_t, clip(ρ_t)·A_t) + value_coef · ½·max((V - R)², (V_clipped - R)²)

with R = A + V before whitening and ρ_t of a token (arXiv 1707.06347, eq. 7 and 9). An answer's last token
ends its episode, also where it was cut off by length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.policy.advantages import token_gae, token_rewards, whiten
from holdtrue.policy.algorithms import Algorithm, given, over_tokens
from holdtrue.policy.inputs import LossInputs, LossOutputs, Mean, Scored
from holdtrue.policy.objectives import token_mean, value_terms

if TYPE_CHECKING:
    from torch import Tensor


class PPO(Algorithm):
    """Proximal policy optimisation with a critic and a KL per token."""

    kl_coef: float = Field(0.05, ge=0)
    """β, weight of the KL to the reference policy, in reward per nat (arXiv 2403.17031: 0.05)."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount per token; 1 in RLHF, where only the end of an answer is judged."""
    lam: float = Field(0.95, ge=0, le=1)
    """λ of GAE: 1 trusts the rewards alone, 0 the critic."""
    value_coef: float = Field(0.1, ge=0)
    """Weight of the critic's loss."""
    value_clip: float = Field(0.2, gt=0)
    """How far a value may move from what it was when the answers were sampled."""
    whiten_rewards: bool = False
    """Scale the rewards of a step's tokens by their std, without moving their mean. Returns are then no
    longer on the scale of a critic that starts from the reward model."""

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"values"}

    def advantages(self, scored: Scored) -> Tensor:
        """(N, T) whitened over the tokens that count."""
        return whiten(self._gae(scored), scored.counted)

    def returns(self, scored: Scored) -> Tensor:
        """(N, T) advantages before they are whitened, plus the old values; 0 where nothing counts."""
        values = given(scored.old_values, "old_values")
        return (self._gae(scored) + values).where(scored.counted, 0.0)

    def _gae(self, scored: Scored) -> Tensor:
        mask = scored.counted
        rewards = token_rewards(scored.rewards, self.penalties(scored), mask)
        if self.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        return token_gae(rewards, given(scored.old_values, "old_values"), mask, self.gamma, self.lam)

    def loss(self, inputs: LossInputs) -> LossOutputs:
        """Mean over tokens of the policy's and the critic's loss."""
        average = weights, _ = token_mean(inputs)
        policy = self.clipped(inputs, inputs.log_ratio, average)
        values, old, returns = (
            given(getattr(inputs, name), name).where(inputs.mask, 0.0)
            for name in ("values", "old_values", "returns")
        )
        terms, cut = value_terms(values, old, returns, self.value_clip)
        metrics = {
            "value_loss": over_tokens(terms, inputs.mask),
            "value_clip_fraction": over_tokens(cut, inputs.mask),
        }
        total = policy.loss.total + self.value_coef * (weights * terms).sum()
        return LossOutputs(Mean(total, policy.loss.weight), dict(policy.metrics) | metrics)
