"""Self-training: the model labels the pairs of new answers that it is sure of, and is trained on them too.

Source: SSRM (arXiv 2409.06903), as :mod:`holdtrue.data.transforms.pseudo_label`. It makes a model surer of
what it believes; where the policy has found a mistake it is sure of, that mistake is taught again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from holdtrue.data.transforms.pseudo_label import COLUMN, PseudoLabel
from holdtrue.refresh.context import (
    Need,
    RefreshContext,
    RefreshReport,
    count_comparisons,
    named_counts,
    rewards,
)
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer


class SelfTraining(Refresh):
    """Train on the pairs and on those of new answers that the model in use is sure of (no labels)."""

    threshold: float = Field(0.8, ge=0.5, lt=1)
    """Least probability of a pair, σ(|Δr| / temperature)."""
    temperature: float = Field(1.0, gt=0)
    """Makes it a probability: what ``holdtrue evaluate`` measured."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"shifted"})

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh.fitting import fit

        found = rewards(context.current, context.shifted)
        scored = [
            replace(group, meta={**group.meta, COLUMN: [float(r) if np.isfinite(r) else None for r in own]})
            for group, own in zip(context.shifted, found, strict=True)
        ]
        labelled, counts = PseudoLabel(threshold=self.threshold, temperature=self.temperature)(scored)
        groups = [*context.pairs, *labelled]
        fitted = fit(context, groups)
        return fitted.scorer, RefreshReport(
            fitted.folder, comparisons=count_comparisons(groups), counts=named_counts(counts)
        )
