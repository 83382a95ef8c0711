"""Comparisons balanced so that the longer answer wins as often as the shorter.

Where the longer answer wins nine times in ten, a reward model can be right by counting characters. After
balancing, length alone is right half of the time, over all comparisons (not among those of one gap). Those
that reading makes of ratings are balanced as any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from holdtrue.data.transforms import Counts, Transform, decisive
from holdtrue.errors import DataError
from holdtrue.records import Group


class BalanceLength(Transform):
    """Give the comparisons that the longer answer won and those that the shorter won the same weight."""

    by: Literal["weight", "drop"] = "weight"
    """``weight`` multiplies weights by (W_longer + W_shorter) / (2 · W_side), so that their sum stays and
    nothing is lost; ``drop`` leaves out comparisons of the larger side, drawn at random."""
    seed: int = Field(0, ge=0)
    """Seed of the draw of ``drop``."""

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """Groups with other weights or fewer comparisons. Ties and answers of equal length stay as they are.

        Length is that of the text in characters, as in the longer-answer baseline.

        Raises:
            DataError: one side has no comparison, so nothing balances the other.
        """
        sides: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for number, group in enumerate(groups):
            sizes = [len(answer.text) for answer in group.answers]
            for index, comparison, (better, worse) in decisive(group):
                if sizes[better] != sizes[worse] and comparison.weight:
                    sides[sizes[better] > sizes[worse]].append((number, index))
        if not sides[True] or not sides[False]:
            raise DataError(
                f"the longer answer wins {len(sides[True]):,} comparisons and the shorter "
                f"{len(sides[False]):,}: one side has nothing that could balance the other"
            )
        if self.by == "weight":
            return _weighted(groups, sides)
        larger, smaller = sorted(sides.values(), key=len, reverse=True)
        drawn = np.random.default_rng(self.seed).permutation(len(larger))[: len(larger) - len(smaller)]
        return _without(groups, {larger[i] for i in drawn.tolist()})


def _weighted(
    groups: Sequence[Group], sides: dict[bool, list[tuple[int, int]]]
) -> tuple[list[Group], Counts]:
    weights = {
        longer: sum(groups[number].comparisons[index].weight for number, index in places)
        for longer, places in sides.items()
    }
    factor = {
        place: sum(weights.values()) / (2 * weights[longer])
        for longer, places in sides.items()
        for place in places
    }
    counts = Counter(
        {
            "comparisons won by the longer answer": len(sides[True]),
            "comparisons won by the shorter answer": len(sides[False]),
        }
    )
    result = [
        replace(
            group,
            comparisons=tuple(
                replace(comparison, weight=comparison.weight * factor.get((number, index), 1.0))
                for index, comparison in enumerate(group.comparisons)
            ),
        )
        for number, group in enumerate(groups)
    ]
    return result, counts


def _without(groups: Sequence[Group], dropped: set[tuple[int, int]]) -> tuple[list[Group], Counts]:
    result = []
    for number, group in enumerate(groups):
        kept = tuple(c for index, c in enumerate(group.comparisons) if (number, index) not in dropped)
        if kept or not group.comparisons:
            result.append(replace(group, comparisons=kept))
    return result, Counter({"comparisons dropped": len(dropped), "rows dropped": len(groups) - len(result)})
