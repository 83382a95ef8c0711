"""Self-training: comparisons that a reward model is sure of, made of the rewards it gave.

Score unlabelled answers with ``holdtrue score``, make pairs of them with this, and train on those together
with the labelled pairs; then score again. Source: SSRM (arXiv 2409.06903), which keeps labels above 0.8.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from pydantic import Field

from holdtrue.data.transforms import Counts, Transform, place
from holdtrue.errors import DataError
from holdtrue.records import Comparison, Group

COLUMN = "rewards"


class PseudoLabel(Transform):
    """Compare all answers of a scored row (``holdtrue score``) whose rewards differ clearly, that is where
    sigmoid(gap / temperature) >= threshold (SSRM).

    The answer with the higher reward wins. Comparisons the row had are replaced, and the column ``rewards``
    is not kept; rows without a clear pair are left out.
    """

    temperature: float = Field(1.0, gt=0)
    """Makes the sigmoid a probability: what ``holdtrue evaluate`` measured on labelled pairs."""
    threshold: float = Field(0.8, ge=0.5, lt=1)
    """Least probability of a pair; 0.8 is that of the authors' code."""

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """Groups with a comparison for each clear pair.

        Raises:
            DataError: no row has rewards, or a row has not one for each of its answers.
        """
        if not any(COLUMN in group.meta for group in groups):
            raise DataError(
                "pseudo_label reads the column rewards, which no row has: "
                "first holdtrue score MODEL DATA --output scored.jsonl"
            )
        counts: Counts = Counter()
        result = []
        for group in groups:
            rewards = _rewards(group)
            counts["answers without a reward"] += rewards.count(None)
            counts["comparisons replaced"] += len(group.comparisons)
            made = tuple(self._clear(rewards, counts))
            counts["pairs made"] += len(made)
            counts["rows without a clear pair, left out"] += not made
            if made:
                meta = {name: value for name, value in group.meta.items() if name != COLUMN}
                result.append(replace(group, comparisons=made, meta=meta))
        if not result:
            raise DataError(
                f"no pair reaches the threshold {self.threshold} at temperature {self.temperature}"
            )
        return result, counts

    def _clear(self, rewards: Sequence[float | None], counts: Counts) -> list[Comparison]:
        made = []
        for i, j in combinations(range(len(rewards)), 2):
            one, other = rewards[i], rewards[j]
            if one is None or other is None:
                continue
            sure = 1 / (1 + math.exp(-abs(one - other) / self.temperature))
            if one == other or sure < self.threshold - 1e-12:
                counts["pairs below the threshold"] += 1
            else:
                made.append(Comparison(*((i, j) if one > other else (j, i))))
        return made


def _rewards(group: Group) -> list[float | None]:
    given = group.meta.get(COLUMN)
    if given is None:
        return [None] * len(group.answers)
    numbers = isinstance(given, list) and all(
        value is None or (type(value) in (int, float) and math.isfinite(value)) for value in given
    )
    if not numbers or len(given) != len(group.answers):
        raise DataError(
            f"rewards at {place(group)} must be {len(group.answers)} numbers, one an answer, got {given!r}"
        )
    return list(given)
