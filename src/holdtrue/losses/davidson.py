"""Davidson loss: ties are likeliest between equals, in proportion ν to the geometric mean of both sides.

    win : loss : tie = e^d : 1 : ν·e^(d/2)

with d = r_first - r_second (Davidson 1970, JASA 65:317-328). As ν goes to 0 it becomes
:mod:`~holdtrue.losses.bradley_terry` without ties.

Needs comparisons, ties among them (a label of 0.5). Choose it where raters could say that both are as good:
a tie then says more than that nobody knows. :mod:`~holdtrue.losses.rao_kupper` takes ties for gaps below a
threshold instead. Margins are not used: how far apart is for the labels to say.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import Loss, LossTerms, gaps

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class Davidson(Loss):
    """Pairwise loss with ties likeliest between equals; for pairs where raters could call a tie."""

    reads: ClassVar[frozenset[str]] = frozenset({"gap"})

    nu: float = Field(1.0, gt=0)
    """ν: how likely a tie between equals is; at 1 as likely as either win."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in nats; a label of 0.5 is a tie, other labels weigh win and loss."""
        from torch import stack, where

        d = gaps(out, targets)
        half = d / 2
        whole = stack([half, -half, half.new_full(half.shape, log(self.nu))]).logsumexp(0)
        win, loss, tie = whole - half, whole + half, whole - log(self.nu)
        p = targets.label
        return LossTerms(where(p == 0.5, tie, p * win + (1 - p) * loss), targets.weight)
