"""Keep the reward model as it is: the frozen arm, in which over-optimisation shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.refresh.context import RefreshContext, RefreshReport
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer


class NoRefresh(Refresh):
    """Go on with the reward model in use."""

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        return context.current, RefreshReport()
