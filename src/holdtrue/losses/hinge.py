"""Hinge loss: the preferred answer should be ahead by a margin, and beyond it nothing is asked.

    loss = p·max(0, m + margin - gap) + (1 - p)·max(0, m + margin + gap)

with gap = r_first - r_second and p = P(first preferred), the ranking hinge of Herbrich et al. 2000.

Needs comparisons. Choose it where :mod:`~holdtrue.losses.bradley_terry` goes on widening gaps that are wide
enough: settled pairs give no gradient, so rewards stay within bounds. Gaps are no log-odds then, and
probabilities need calibration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import Loss, LossTerms, gaps

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class Hinge(Loss):
    """Pairwise hinge: no more is asked once the gap reaches the margin; for rewards that stay bounded."""

    reads: ClassVar[frozenset[str]] = frozenset({"gap"})

    margin: float = Field(1.0, ge=0)
    """m, in reward units; a row's own margin is added to it."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in reward units."""
        gap, wanted = gaps(out, targets), self.margin + targets.margin
        p = targets.label
        return LossTerms(p * (wanted - gap).relu() + (1 - p) * (wanted + gap).relu(), targets.weight)
