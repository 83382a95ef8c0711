"""Weigh the original pairs by how likely the current policy is to write them (OCRM, arXiv 2507.15507).

    w = exp(γ · (log π(a|x)/π_ref(a|x) + log π(b|x)/π_ref(b|x)))        of a pair (a, b), clipped, mean 1

With γ = 1 and without clipping the weighted pairs are, in expectation, pairs of the current policy, so no new
label is needed. But the weights of sequences spread fast: what is left is told by the effective sample size

    ESS = (Σ w)² / Σ w²                                                  pairs

and γ is lowered until it is at least ``least_ess`` of the pairs (the authors' scripts multiply the log-ratios
by 0.001 for summaries of about 50 tokens).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from holdtrue.refresh.context import (
    Floats,
    Need,
    RefreshContext,
    RefreshReport,
    count_comparisons,
)
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer


class ImportanceWeights(Refresh):
    """Train on the same pairs, weighted by clipped density ratios of policy to reference (no labels)."""

    power: float = Field(1.0, ge=0)
    """Largest γ; 0 leaves all pairs alike."""
    clip: float = Field(20.0, gt=1)
    """Largest weight, as a multiple of the mean of the weights before clipping."""
    least_ess: float = Field(0.3, ge=0, le=1)
    """Least effective sample size as a share of the pairs; 0 keeps γ at ``power``."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"pair log-ratios"})

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh.fitting import fit

        assert context.pair_log_ratios is not None
        ratios = np.array(
            [
                own[comparison.first] + own[comparison.second]
                for group, own in zip(context.pairs, context.pair_log_ratios, strict=True)
                for comparison in group.comparisons
            ],
            dtype=np.float64,
        )
        power = self.tempered(ratios)
        found = weights(ratios, power, self.clip)
        given = iter(found.tolist())
        groups = [
            replace(
                group, comparisons=tuple(replace(c, weight=c.weight * next(given)) for c in group.comparisons)
            )
            for group in context.pairs
        ]
        fitted = fit(context, groups)
        ess = effective_sample_size(found)
        numbers = {"power": power, "ess": ess, "ess_share": ess / len(found), "largest": float(found.max())}
        return fitted.scorer, RefreshReport(
            fitted.folder, comparisons=count_comparisons(context.pairs), numbers=numbers
        )

    def tempered(self, log_ratios: Floats) -> float:
        """The largest γ up to ``power`` at which the effective sample size is large enough, to 0.1 %."""

        def enough(power: float) -> bool:
            found = weights(log_ratios, power, self.clip)
            return effective_sample_size(found) >= self.least_ess * len(found)

        low, high = 0.0, self.power
        if enough(high):
            return high
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if enough(middle) else (low, middle)
        return low


def weights(log_ratios: Floats, power: float, clip: float) -> Floats:
    """Weights of mean 1: exp(power·(log-ratio - largest)) over their mean, at most ``clip``, over theirs."""
    raw = np.exp(power * (log_ratios - log_ratios.max()))
    clipped = np.minimum(raw / raw.mean(), clip)
    found: Floats = clipped / clipped.mean()
    return found


def effective_sample_size(found: Floats) -> float:
    """(Σ w)² / Σ w²: as many equal weights would be as informative."""
    return float(found.sum() ** 2 / np.square(found).sum())
