"""Regression of several aspects at once; aspects nobody rated are left out, one by one.

    loss = Σ over rated (answer, aspect) of (logit_k - rating_k)²          [squared rating units]

(ArmoRM, arXiv 2406.12845, section 3.1, where missing ratings are left out the same way.)

Needs at least one rating per answer, in columns named as the model's aspects. Choose it where raters gave
several numbers (helpfulness, correctness, ...). Each aspect is a :mod:`~holdtrue.losses.mse` of its own;
aspects on larger scales weigh more, so bring them to one scale first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdtrue.losses import Loss, LossTerms, given

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class AspectRegression(Loss):
    """Squared difference of each aspect's output and rating; for answers rated in several aspects."""

    reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    unit = "answer"
    target = "ratings"

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (N·K,), of weight 0 where an aspect has no rating."""
        known = ~targets.ratings.isnan() * targets.counted[:, None]
        difference = (given(out, "logits") - targets.ratings.nan_to_num(0.0)) * known
        return LossTerms(difference.square().flatten(), known.flatten())
