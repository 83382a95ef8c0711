"""Huber loss: squared near the rating, linear far from it, so that outliers among raters weigh less.

    loss = d² / 2 for |d| <= δ, else δ·(|d| - δ / 2)          with d = r - rating

(Huber 1964, Annals of Mathematical Statistics 35:73-101.) For |d| <= δ it is half of
:mod:`~holdtrue.losses.mse`.

Needs a rating per answer. Choose it where some ratings are far off and should not lead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.losses import Loss, LossTerms
from holdtrue.losses.mse import residual

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class Huber(Loss):
    """Squared error up to δ, absolute error beyond; for ratings with outliers."""

    unit = "answer"
    target = "ratings"

    delta: float = Field(1.0, gt=0)
    """δ, in rating units."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (N,)."""
        from torch import where

        difference, known = residual(out, targets)
        size = difference.abs()
        terms = where(size <= self.delta, size.square() / 2, self.delta * (size - self.delta / 2))
        return LossTerms(terms, known)
