"""Rows that say again what an earlier row says are dropped."""

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
    """Also rows that nearly do: equal words, or 70 % of the runs of five words shared
    (:mod:`holdtrue.data.near`)."""

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """The first of each set of repeated rows. What one row of many comparisons adds keeps it whole."""
        exact, near = repeats(gather({"rows": groups}))
        dropped = {id(row.group) for row in exact}
        counts: Counts = Counter({"exact duplicates dropped": len(exact)})
        if self.near:
            dropped |= {id(row.group) for row in near}
            counts["near duplicates dropped"] = len(near)
        return [group for group in groups if id(group) not in dropped], counts
