"""A classifier of single answers: refused (class 0) or accepted (class 1).

    reward = z₁ - z₀ = log P(accepted) / P(refused)          or P(accepted) = softmax(z)₁

The gap of the logits is unbounded, which policies and calibration need; the probability saturates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from holdtrue.reward.kinds import RewardKind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput


class TwoClass(RewardKind):
    """Two classes per answer, refused and accepted."""

    gives: ClassVar[frozenset[str]] = frozenset({"rewards", "logits", "hidden"})

    reward: Literal["gap", "probability"] = "gap"
    """What is reported as the reward: the gap of the logits, or P(accepted)."""

    @property
    def labels(self) -> tuple[str, ...]:
        return ("refused", "accepted")

    @property
    def bounded(self) -> bool:
        return self.reward == "probability"

    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        from holdtrue.reward.model import RewardOutput

        gap = logits[:, 1] - logits[:, 0]
        rewards = gap if self.reward == "gap" else gap.sigmoid()
        return RewardOutput(rewards=rewards, logits=logits, hidden=hidden)
