"""Groups as a corpus: every distinct text once, numbered, with its near duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from holdtrue.data.near import near_classes
from holdtrue.records import Group


@dataclass(frozen=True, slots=True)
class Row:
    """A group with its texts as numbers, equal for equal texts over all splits."""

    group: Group
    split: str
    prompt: int
    answers: tuple[int, ...]

    @property
    def place(self) -> str:
        """``file:line``, as examples give it."""
        return str(self.group.source or self.split)


@dataclass(frozen=True)
class Corpus:
    """All rows, their distinct texts, and for each text the earliest near duplicate (or itself)."""

    rows: list[Row]
    texts: list[str]
    near: list[int]

    def split(self, name: str) -> list[Row]:
        """The rows of one split."""
        return [row for row in self.rows if row.split == name]


def gather(splits: Mapping[str, Sequence[Group]]) -> Corpus:
    """Number the distinct texts of all groups and find the near duplicates among them."""
    numbers: dict[str, int] = {}
    rows = [
        Row(
            group,
            name,
            numbers.setdefault(group.prompt_text, len(numbers)),
            tuple([numbers.setdefault(answer.text, len(numbers)) for answer in group.answers]),
        )
        for name, groups in splits.items()
        for group in groups
    ]
    texts = list(numbers)
    return Corpus(rows, texts, near_classes(texts))


def quantiles(values: Sequence[int]) -> dict[str, float]:
    """Count, mean, smallest, largest, and the 5th, 50th, 95th and 99th percentile."""
    if not len(values):
        return {"count": 0}
    array = np.asarray(values)
    p5, p50, p95, p99 = np.percentile(array, (5, 50, 95, 99)).tolist()
    return {
        "count": len(values),
        "mean": float(array.mean()),
        "min": int(array.min()),
        "p5": p5,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": int(array.max()),
    }
