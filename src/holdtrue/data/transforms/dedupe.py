"""Rows that say again what an earlier row says are dropped (:mod:`holdtrue.data.near` says how near)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from holdtrue.data.checks import repeats
from holdtrue.data.corpus import gather
from holdtrue.data.transforms import Counts, Transform
from holdtrue.records import Group


class Dedupe(Transform):
    """Drop rows that repeat an earlier row: same prompt, answers, preference (ratings, label) and rater."""

    near: bool = True
    """Also rows that nearly do: equal words, or 70 % of the runs of five words shared."""

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """The first of each set of repeated rows. What one row of many comparisons adds keeps it whole."""
        corpus = gather({"rows": groups})
        exact, near = repeats(corpus)
        dropped = set(map(id, exact))
        counts: Counts = Counter({"exact duplicates dropped": len(exact)})
        if self.near:
            dropped |= set(map(id, near))
            counts["near duplicates dropped"] = len(near)
        return [row.group for row in corpus.rows if id(row) not in dropped], counts
