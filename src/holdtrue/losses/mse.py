"""Mean squared error: the reward should be the rating.

    loss = (r - rating)²          [squared rating units]

Needs a rating per answer, one column named ``rating``. Choose it where a scale is known and rewards should
be on it. :mod:`~holdtrue.losses.huber` bears outliers, :mod:`~holdtrue.losses.rmse` is in rating units,
:mod:`~holdtrue.losses.aspect_regression` takes several ratings per answer, and
:mod:`~holdtrue.losses.all_pairs` only their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.losses import Loss, LossTerms, given

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class Mse(Loss):
    """Squared difference of reward and rating; for answers rated on one scale."""

    unit = "answer"
    target = "ratings"

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (N,) in squared rating units."""
        difference, known = residual(out, targets)
        return LossTerms(difference.square(), known)


def residual(out: RewardOutput, targets: Targets) -> tuple[Tensor, Tensor]:
    """(N,) reward minus rating, 0 where there is no rating, and (N,) 1 where it counts."""
    rating = targets.ratings[:, 0]
    known = targets.counted * ~rating.isnan()
    return (given(out, "rewards") - rating.nan_to_num(0.0)) * known, known
