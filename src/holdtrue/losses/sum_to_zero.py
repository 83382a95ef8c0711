"""Bradley-Terry with the mean reward of a whole step pinned to zero.

    loss = softplus(-(gap - margin)) ... as Bradley-Terry, + weight·(mean of the step's rewards)²

Fixes the free offset of rewards without touching any single one, where centring pulls each pair's sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import LossTerms, given
from holdtrue.losses.bradley_terry import BradleyTerry

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class SumToZero(BradleyTerry):
    """Bradley-Terry whose rewards average to zero over a step."""

    reads: ClassVar[frozenset[str]] = frozenset({"rewards"})
    coupled: ClassVar[bool] = True

    zero: float = Field(0.1, ge=0)
    """Weight of the squared mean reward."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in nats."""
        found = super().__call__(out, targets)
        counted = targets.counted
        mean = (given(out, "rewards") * counted).sum() / counted.sum().clamp_min(1)
        return LossTerms(found.terms + self.zero * mean.square(), found.weights)
