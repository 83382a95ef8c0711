"""What the checks keep of the data: counts and a few places, taken while the examples go by.

A tally is a class that is made of the subject before the first example and sees each of them once. A check
asks for it with :meth:`~holdtrue.doctor.subject.Subject.counted`; one pass feeds all tallies that are known,
and the examples themselves are never held: memory grows with the data only by what the tallies keep of a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from holdtrue.doctor.findings import Missing

if TYPE_CHECKING:
    from holdtrue.doctor.subject import Subject

SHOWN = 3
"""Places that a finding names."""


class Tally(Protocol):
    """Made of a subject (raises Missing where that lacks what it needs), then shown every row."""

    def __init__(self, subject: Subject) -> None: ...

    def see(self, one: Any, /) -> None:
        """Count a row: an Example, or an Encoded one."""


Kind = TypeVar("Kind", bound=type[Tally])
OF_EXAMPLES: list[type[Tally]] = []
OF_ENCODED: list[type[Tally]] = []


def of_examples(kind: Kind) -> Kind:
    """Mark a tally that sees the examples as they were read."""
    OF_EXAMPLES.append(kind)
    return kind


def of_encoded(kind: Kind) -> Kind:
    """Mark a tally that sees the examples as the model will read them."""
    OF_ENCODED.append(kind)
    return kind


def take(kinds: Iterable[type[Tally]], subject: Subject, rows: Iterable[Any]) -> dict[type, Tally | Missing]:
    """Every tally after one pass over the rows, or what the subject lacks for it."""
    found: dict[type, Tally | Missing] = {}
    for kind in kinds:
        try:
            found[kind] = kind(subject)
        except Missing as missing:
            found[kind] = missing
    seeing = [one.see for one in found.values() if not isinstance(one, Missing)]
    for row in rows:
        for see in seeing:
            see(row)
    return found


class Places:
    """How many rows something was found in, and where the first of them stand."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, at: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.first.append(at)

    def __len__(self) -> int:
        return self.count

    def __str__(self) -> str:
        """``a.jsonl:3, a.jsonl:9, b.jsonl:1 and 4 more``."""
        return shown(self.first, self.count)


def shown(at: Sequence[str], count: int | None = None) -> str:
    """Up to three places, and how many more there are; ``count`` says how many, where ``at`` is cut."""
    count = len(at) if count is None else count
    return ", ".join(at[:SHOWN]) + (f" and {count - SHOWN} more" if count > SHOWN else "")


class Distinct:
    """How many different texts there are among many, told by 8 bytes of each: of a million texts two that
    differ count as one with a probability of 3e-8."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, value: str) -> None:
        digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._hashes.append(int.from_bytes(digest))

    def __len__(self) -> int:
        return len(np.unique(self._hashes))
