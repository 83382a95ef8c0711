"""Ratings put on one scale per rater: one gives 0.8 and 0.7 where another gives 0.6 and 0.5."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from holdtrue.data.transforms import Counts, Transform, rating
from holdtrue.errors import DataError
from holdtrue.records import Group

Floats = NDArray[np.float64]


class RaterScale(Transform):
    """Replace each rating by where it stands among the ratings of the same rater.

    That the raters saw answers equally good on average is assumed; a rater who saw only bad ones is
    scaled up. Ratings of each name (aspect) are scaled by themselves.
    """

    for_every_split: ClassVar[bool] = True

    method: Literal["z_score", "min_max", "rank"] = "z_score"
    """``z_score``: (x - mean) / standard deviation. ``min_max``: (x - min) / (max - min), which one odd
    rating can squeeze. ``rank``: (rank - 1/2) / n with the mean rank for ties, which forgets the gaps."""

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """Groups with scaled ratings; a rater who always gave the same gets 0 (z_score) or 1/2.

        Raises:
            DataError: no rated answer says who rated it, or a rating is not finite.
        """
        held: dict[tuple[str, str], list[float]] = defaultdict(list)
        counts: Counts = Counter()
        for group in groups:
            for answer in group.answers:
                for name in answer.ratings:
                    value = rating(group, answer, name)
                    if answer.rater is None or value is None:
                        counts["ratings without a rater, left as they are"] += 1
                    else:
                        held[answer.rater, name].append(value)
        if not held:
            what = "says who gave it" if counts else "is there"
            raise DataError(f"no rating {what}; name the column of raters, e.g. --column rater=annotator")
        scaled = {key: iter(self._scaled(np.array(values)).tolist()) for key, values in held.items()}
        counts["raters"] = len({rater for rater, _ in held})
        counts["ratings scaled"] = sum(map(len, held.values()))
        counts["raters who always gave the same"] = sum(len(set(values)) == 1 for values in held.values())
        result = [
            replace(
                group,
                answers=tuple(
                    answer
                    if answer.rater is None
                    else replace(
                        answer, ratings={name: next(scaled[answer.rater, name]) for name in answer.ratings}
                    )
                    for answer in group.answers
                ),
            )
            for group in groups
        ]
        return result, counts

    def _scaled(self, values: Floats) -> Floats:
        low, high = values.min(), values.max()
        if self.method == "rank":
            ordered = np.sort(values)
            below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
            return np.asarray((below + up_to) / (2 * len(values)))
        if low == high:
            return np.full(len(values), 0.0 if self.method == "z_score" else 0.5)
        if self.method == "min_max":
            return np.asarray((values - low) / (high - low))
        return np.asarray((values - values.mean()) / values.std())
