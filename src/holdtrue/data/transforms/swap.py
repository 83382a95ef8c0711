"""Comparisons with their two answers the other way round, for models that read both at once.

A model that compares two answers in one text can learn that the first one wins. A scalar reward sees no
order and is not changed by this. Layouts of chosen and rejected have no order either: they keep the
preference, so this belongs in ``data.transforms``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from holdtrue.data.transforms import Counts, Transform
from holdtrue.records import Comparison, Group


class Swap(Transform):
    """Change the order of the answers of comparisons: (first, second, p) becomes (second, first, 1 - p)."""

    share: float = Field(0.5, gt=0, le=1)
    """Share of the comparisons, drawn one by one. At 0.5 the order tells nothing, whatever it told before."""
    mirror: bool = False
    """Keep the comparison and add the swapped one; with ``share: 1`` every one is there both ways."""
    seed: int = Field(0, ge=0)
    """Seed of the draw."""

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """Groups with swapped comparisons; answers, weights and margins stay."""
        generator = np.random.default_rng(self.seed)
        counts: Counts = Counter()
        result = []
        for group in groups:
            comparisons: list[Comparison] = []
            for comparison, drawn in zip(
                group.comparisons, generator.random(len(group.comparisons)), strict=True
            ):
                if drawn >= self.share:
                    comparisons.append(comparison)
                    continue
                comparisons += [comparison, _turned(comparison)] if self.mirror else [_turned(comparison)]
                counts["mirrored comparisons added" if self.mirror else "comparisons swapped"] += 1
            result.append(replace(group, comparisons=tuple(comparisons)))
        return result, counts


def _turned(comparison: Comparison) -> Comparison:
    return replace(comparison, first=comparison.second, second=comparison.first, label=1 - comparison.label)
