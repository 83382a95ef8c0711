"""Transforms: one module per way to change data before training; groups in, groups out, and what changed.

Each is deterministic: one that draws at random has a ``seed``. Adding one is a file with one
:class:`Transform`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from holdtrue import kinds
from holdtrue.errors import DataError
from holdtrue.kinds import Kind
from holdtrue.records import Answer, Comparison, Group

FAMILY = "holdtrue.data.transforms"

Counts = Counter[str]
"""What was changed -> how many times."""


class Transform(Kind):
    """Base of the transforms."""

    for_every_split: ClassVar[bool] = False
    """True for what makes the labels that held-out rows are judged by as well (pairs of ratings); all
    others change the training rows only."""

    @abstractmethod
    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """The changed groups and what was changed.

        Raises:
            DataError: the rows lack what the transform needs.
        """


def named(value: Any) -> Transform:
    """The transform of a name, or of a mapping with ``kind`` and its fields.

    Raises:
        SettingsError: there is none, or a field is wrong.
    """
    found: Transform = kinds.choose(FAMILY, value, None)
    return found


def apply(
    transforms: Iterable[Transform], groups: Sequence[Group]
) -> tuple[list[Group], list[dict[str, Any]]]:
    """Groups after the transforms, in order, and ``{"kind", "changed": {what: how many}}`` of each."""
    result = list(groups)
    changes = []
    for transform in transforms:
        result, counts = transform(result)
        changes.append({"kind": transform.name(), "changed": dict(counts.most_common())})
    return result, changes


def sentence(change: Mapping[str, Any]) -> str:
    """A change for people: ``dedupe: 12 exact duplicates dropped``."""
    listed = ", ".join(f"{count:,} {what}" for what, count in change["changed"].items() if count)
    return f"{change['kind']}: {listed or 'nothing changed'}"


def place(group: Group) -> str:
    """Where a group was read, as messages say it."""
    return str(group.source or "a row without a file")


def rating(group: Group, answer: Answer, name: str | None) -> float | None:
    """The rating called ``name`` (by default the only one) of an answer; None where there is none.

    Raises:
        DataError: it is not finite, or there are several and none was named.
    """
    ratings = answer.ratings
    if name is None and len(ratings) > 1:
        raise DataError(
            f"answers have several ratings ({', '.join(sorted(ratings))}); name one: "
            f"{{rating: {min(ratings)}}} (first at {place(group)})"
        )
    value = next(iter(ratings.values()), None) if name is None else ratings.get(name)
    if value is not None and not math.isfinite(value):
        raise DataError(f"a rating at {place(group)} is {value}, expected a finite number")
    return value


def decisive(group: Group) -> Iterator[tuple[int, Comparison, tuple[int, int]]]:
    """(index, comparison, (preferred, other)) of each comparison that is no tie."""
    for index, comparison in enumerate(group.comparisons):
        if comparison.preferred is not None:
            yield index, comparison, comparison.preferred
