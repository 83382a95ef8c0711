"""Rao-Kupper loss: ties have a probability of their own, the wider θ the more.

    P(win) = e^d / (e^d + θ)      P(loss) = 1 / (1 + θ·e^d)      P(tie) = 1 - P(win) - P(loss)

with d = r_first - r_second (Rao and Kupper 1967, JASA 62:194-204). As θ goes to 1 it becomes
:mod:`~holdtrue.losses.bradley_terry` without ties.

Needs comparisons, ties among them (a label of 0.5). Choose it where raters call a tie when they see no
difference: gaps within ±log θ. :mod:`~holdtrue.losses.davidson` takes ties for a third outcome instead.
Margins are not used: how far apart is for the labels to say.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import Loss, LossTerms, gaps

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class RaoKupper(Loss):
    """Pairwise loss with ties within a threshold; for pairs where raters could call a tie."""

    reads: ClassVar[frozenset[str]] = frozenset({"gap"})

    theta: float = Field(2.0, gt=1)
    """θ: the gap within which answers are taken for equal is log θ either way."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in nats; a label of 0.5 is a tie, other labels weigh win and loss."""
        from torch import where
        from torch.nn.functional import softplus

        gap, width = gaps(out, targets), log(self.theta)
        win, loss = softplus(width - gap), softplus(width + gap)
        tie = win + loss - log(self.theta**2 - 1)  # P(tie) = (θ² - 1) · P(win) · P(loss)
        p = targets.label
        return LossTerms(where(p == 0.5, tie, p * win + (1 - p) * loss), targets.weight)
