"""Bradley-Terry with the mean reward of a whole step pinned to zero.

    loss = Bradley-Terry + zero · (mean of the step's rewards)²          [nats]

Fixes the free offset of rewards without touching any single one, where ``center`` of
:mod:`~holdtrue.losses.bradley_terry` (arXiv 2312.09244, eq. 2) pulls the sum of each pair.

Needs comparisons. Choose it where policies or other tools expect rewards around 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import LossTerms, compared, given
from holdtrue.losses.bradley_terry import BradleyTerry

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class SumToZero(BradleyTerry):
    """Bradley-Terry whose rewards average to zero over a step; for rewards with a fixed offset."""

    reads: ClassVar[frozenset[str]] = frozenset({"rewards"})
    coupled: ClassVar[bool] = True

    zero: float = Field(0.1, ge=0)
    """Weight of the squared mean reward."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in nats."""
        found = super().__call__(out, targets)
        counted = compared(targets)
        mean = (given(out, "rewards") * counted).sum() / counted.sum().clamp_min(1)
        return LossTerms(found.terms + self.zero * mean.square(), found.weights)
