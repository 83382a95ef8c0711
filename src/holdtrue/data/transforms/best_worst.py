"""Pairs made of ratings: the best and the worst of N answers, or all pairs that lie far enough apart.

Ratings of one rater are compared with each other only: what one calls 0.7 another calls 0.5, so pairs across
raters say who rated rather than what is better. Rows of the same prompt are taken together, so files
with one rated answer a line give pairs too. (Reading compares the answers of one row, all of them.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, ClassVar, Literal

from pydantic import Field

from holdtrue.data.transforms import Counts, Transform, place, rating
from holdtrue.errors import DataError
from holdtrue.records import Answer, Comparison, Group, Messages

_ROUNDING = 1e-9  # 0.7 - 0.5 is a little less than 0.2


@dataclass
class _Pool:
    """Rated answers to one prompt that may be compared with each other."""

    group: Group
    rater: str | None
    meta: dict[str, Any]
    answers: dict[Messages | str, Answer] = field(default_factory=dict)
    ratings: dict[Messages | str, list[float]] = field(default_factory=dict)

    def add(self, group: Group, answer: Answer, value: float) -> None:
        self.meta = {k: v for k, v in self.meta.items() if k in group.meta and group.meta[k] == v}
        self.answers.setdefault(answer.content, answer)
        self.ratings.setdefault(answer.content, []).append(value)


class BestWorst(Transform):
    """Make comparisons of ratings: the answer rated higher is preferred.

    An answer rated several times counts with its mean. The comparisons that rated rows had, also those that
    reading makes of their ratings, are replaced; each pair weighs 1. Rows without ratings stay as they are.
    """

    for_every_split: ClassVar[bool] = True

    pairs: Literal["best_worst", "all"] = "best_worst"
    """``best_worst`` makes one pair a prompt, the clearest; ``all`` makes every pair of its answers."""
    min_gap: float = Field(0.0, ge=0)
    """Least difference of the ratings of a pair, in their unit. Equal ratings never make a pair."""
    rating: str | None = None
    """Which rating, where answers have several."""
    pool_raters: bool = False
    """Compare across raters as well: for ratings on one scale, such as those after ``rater_scale``."""

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """A group for each prompt and rater with a pair, after the rows without ratings.

        Raises:
            DataError: no answer has the rating, no pair could be made, or a rating is not finite.
        """
        pools, result, counts = self._pooled(groups)
        if not pools:
            name = f" called {self.rating!r}" if self.rating else ""
            at = f" (first at {place(groups[0])})" if groups else ""
            raise DataError(f"best_worst makes pairs of ratings, but no answer has one{name}{at}")
        for pool in pools:
            made = self._compared(pool, counts)
            if made.comparisons:
                counts["pairs made"] += len(made.comparisons)
                result.append(made)
        if not any(group.comparisons for group in result):
            reasons = ", ".join(f"{count:,} {what}" for what, count in counts.most_common() if count)
            raise DataError(f"best_worst made no pair: {reasons}")
        return result, counts

    def _pooled(self, groups: Sequence[Group]) -> tuple[list[_Pool], list[Group], Counts]:
        pools: dict[tuple[str, str | None], _Pool] = {}
        unrated: list[Group] = []
        counts: Counts = Counter()
        for group in groups:
            values = [rating(group, answer, self.rating) for answer in group.answers]
            if values.count(None) == len(values):
                counts["rows without a rating, left as they are"] += 1
                unrated.append(group)
                continue
            counts["comparisons replaced"] += len(group.comparisons)
            counts["answers without a rating, left out"] += values.count(None)
            for answer, value in zip(group.answers, values, strict=True):
                if value is not None:
                    rater = None if self.pool_raters else answer.rater
                    key = group.prompt_key, rater
                    pools.setdefault(key, _Pool(group, rater, dict(group.meta))).add(group, answer, value)
        return list(pools.values()), unrated, counts

    def _compared(self, pool: _Pool, counts: Counts) -> Group:
        answers = tuple(
            answer if len(rated) == 1 else replace(answer, ratings={self.rating or "rating": _mean(rated)})
            for answer, rated in zip(pool.answers.values(), pool.ratings.values(), strict=True)
        )
        values = [_mean(rated) for rated in pool.ratings.values()]
        if len(values) == 1:
            counts["prompts with a single rated answer, left out"] += 1
        pairs = [(i, j) if values[i] > values[j] else (j, i) for i, j in combinations(range(len(values)), 2)]
        if self.pairs == "best_worst":
            pairs = pairs and [(values.index(max(values)), values.index(min(values)))]
        gaps = [values[better] - values[worse] for better, worse in pairs]
        comparisons = tuple(
            Comparison(better, worse, rater=pool.rater)
            for (better, worse), gap in zip(pairs, gaps, strict=True)
            if gap > 0 and gap >= self.min_gap - _ROUNDING
        )
        counts["pairs rated too alike, left out"] += len(pairs) - len(comparisons)
        return Group(pool.group.prompt, answers, comparisons, pool.meta, pool.group.source)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
