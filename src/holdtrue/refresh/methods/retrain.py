"""Train again on the same pairs with another seed: what every cleverer method must beat.

A new head and a new order make new mistakes, and a policy that found the old ones has to begin again. Methods
that train anew do this too, so a gain over the frozen model alone says nothing for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.refresh.context import RefreshContext, RefreshReport, count_comparisons
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer


class Retrain(Refresh):
    """Train on the same pairs with the context's seed; the control of all others."""

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh.fitting import fit

        fitted = fit(context, context.pairs)
        return fitted.scorer, RefreshReport(fitted.folder, comparisons=count_comparisons(context.pairs))
