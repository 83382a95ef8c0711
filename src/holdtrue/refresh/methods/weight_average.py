"""The mean of several models' weights (WARM, Ramé et al., arXiv 2401.12187): an ensemble at the price of one.

The members begin with the same head, else their heads point apart and average to a weaker one. They differ in
the order of the rows and in the learning rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.refresh.context import RefreshContext, RefreshReport, count_comparisons
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer


class WeightAverage(Refresh):
    """Train several models on the same pairs and average their weights (no labels)."""

    members: int = Field(4, gt=1)
    """How many are trained."""
    spread: float = Field(2.0, ge=1)
    """Learning rates lie evenly, on a log scale, from 1/spread to spread times the set one."""

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh import fitting
        from holdtrue.reward import store
        from holdtrue.reward.ensemble import scale_of
        from holdtrue.reward.weight_average import average

        orders = fitting.seeds(context.seed, self.members)
        rates = [self.spread ** (2 * place / (self.members - 1) - 1) for place in range(self.members)]
        folders = [
            fitting.fit(
                context, context.pairs, f"member-{number}", seed=seed, head_seed=context.seed, rate=rate
            ).folder
            for number, (seed, rate) in enumerate(zip(orders, rates, strict=True), start=1)
        ]
        made = average(folders)
        scorer = fitting.scorer_of(made.loaded, context)
        rewards = scorer.score((context.held_out or context.pairs)[: fitting.REFERENCE])
        made.card.reward = scale_of(rewards, "the mean of the weights")
        folder = context.folder / "model"
        if context.world is None or context.world.main:
            store.publish(made.loaded, folder, made.card)
        return scorer, RefreshReport(
            folder,
            comparisons=count_comparisons(context.pairs),
            numbers={"least_head_cosine": made.least_cosine},
            counts={"members": len(folders)},
        )
