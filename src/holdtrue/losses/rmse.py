"""Root mean squared error over a whole step.

    loss = √(mean (r - rating)² + ε²) - ε          [rating units]

Its gradient is that of the mean squared error divided by twice its root, so large errors late in training
move the model no more than early ones. ε keeps it finite where all ratings are met.

Needs a rating per answer. Same minimum as :mod:`~holdtrue.losses.mse`; choose it to read the loss in rating
units, or where the scale of ratings is large and the gradient of the square with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import Loss, LossTerms
from holdtrue.losses.mse import residual

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class Rmse(Loss):
    """Root of a step's mean squared difference of reward and rating; for answers rated on one scale."""

    unit = "answer"
    target = "ratings"
    coupled: ClassVar[bool] = True

    eps: float = Field(1e-4, gt=0)
    """ε, in rating units."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """One term, weighing as much as the answers it is made of."""
        difference, known = residual(out, targets)
        count = known.sum().clamp_min(1)
        term = (difference.square().sum() / count + self.eps**2).sqrt() - self.eps
        return LossTerms(term[None], known.sum()[None])
