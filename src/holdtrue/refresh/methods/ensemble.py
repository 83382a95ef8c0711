"""Several models of the same pairs and different seeds, asked together.

They agree where pairs were and part where none were, so the worst case or the mean less the spread is low on
answers that only one of them likes (Coste et al., arXiv 2310.02743; Eisenstein et al., arXiv 2312.09244, who
also show that what all members get wrong stays). The first member is the model that ``retrain`` makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdtrue.refresh.context import RefreshContext, RefreshReport, count_comparisons
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer


class EnsembleOfSeeds(Refresh):
    """Train several models on the same pairs and combine their normalised rewards (no labels)."""

    members: int = Field(4, gt=1)
    """How many; each costs a training, and a pass for each reward."""
    combine: Literal["mean", "min", "mean_minus_std"] = "min"
    """``min``: worst case. ``mean_minus_std``: weighted by uncertainty. ``mean`` does not doubt."""
    penalty: float = Field(1.0, ge=0)
    """λ of ``mean_minus_std``."""

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh import fitting
        from holdtrue.reward import members
        from holdtrue.reward.ensemble import Ensemble, EnsembleScorer, Scaled
        from holdtrue.reward.folders import scale_in_card

        fitted = [
            fitting.fit(context, context.pairs, f"member-{number}", seed=seed)
            for number, seed in enumerate(fitting.seeds(context.seed, self.members), start=1)
        ]
        scaled = tuple(
            Scaled(**members.Member.of(one.folder).model_dump(), **(scale_in_card(one.folder) or {}))
            for one in fitted
        )
        made = Ensemble(members=scaled, combine=self.combine, penalty=self.penalty, scale="cards")
        folder = context.folder / "model"
        if context.world is None or context.world.main:
            members.write(made, folder, members.ENSEMBLE)
        trained_on = count_comparisons(context.pairs)
        scorer = EnsembleScorer(made, [one.scorer for one in fitted])
        return scorer, RefreshReport(folder, comparisons=trained_on, counts={"members": len(fitted)})
