"""Repetition without an exact period: how much of a stretch of symbols has been said before, and how often.

Symbols are integers: tokens, or the code points of a text. A gram is ``width`` symbols in a row. What is
counted is how many earlier copies a gram has in the same sequence, so code that stands there twice is told
from a loop, and a table, whose cells differ, from both. Needs numpy only; O(n log n) for n symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd, with well mixed bits (2^64 divided by the golden ratio)."""


@dataclass(frozen=True)
class Stretch:
    """Symbols ``start`` to ``end`` (exclusive), of which the share ``repeated`` has earlier copies."""

    start: int
    end: int
    repeated: float


def codes(text: str) -> NDArray[np.uint32]:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def without_digits(symbols: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Code points with every ASCII digit read as 0, so that a counter does not hide a loop."""
    return np.where((symbols >= 48) & (symbols <= 57), np.uint32(48), symbols)


def without_rules(symbols: NDArray[np.uint32], longest: int = 4) -> NDArray[np.intp]:
    """Where the symbols stand that are left when a run of one symbol is cut after ``longest``.

    Lines of dashes, indentation and dotted leaders repeat one symbol and mean nothing by it.
    """
    cut = np.flatnonzero(symbols[longest:] == symbols[:-longest]) + longest
    for lag in range(1, longest):
        cut = cut[symbols[cut] == symbols[cut - lag]]
    return np.delete(np.arange(len(symbols)), cut)


def hashes(symbols: NDArray[np.integer], width: int) -> NDArray[np.uint64]:
    """A 64-bit hash of every gram: the sum of (symbol + 1) times multiplier^(symbols behind it), mixed.

    A gram's sum is the difference of two running sums of symbol times multiplier^-place, at its own place.
    """
    if len(symbols) < width:
        return np.empty(0, dtype=np.uint64)
    up, down = _powers(len(symbols).bit_length())
    total = np.cumsum((symbols.astype(np.uint64) + np.uint64(1)) * down[: len(symbols)])
    result = total[width - 1 :].copy()
    result[1:] -= total[:-width]
    result *= up[width - 1 : len(symbols)]
    return np.asarray((result ^ (result >> np.uint64(31))) * _MULTIPLIER)


@cache
def _powers(bits: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers 0, 1, 2 ... of the multiplier and of its inverse modulo 2^64, ``2^bits`` of each."""
    inverse = np.uint64(pow(int(_MULTIPLIER), -1, 1 << 64))
    factors = np.repeat(np.array([[_MULTIPLIER], [inverse]]), 1 << bits, axis=1)
    factors[:, 0] = 1
    up, down = np.cumprod(factors, axis=1)
    return up, down


def copies_before(grams: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For every gram, how many equal ones stand before it.

    Hashes give their lowest bits to the place they stand at: sorting values is faster than indices.
    """
    count = len(grams)
    bits = np.uint64(count.bit_length())
    places = np.arange(count)
    ordered = np.sort(grams >> bits << bits | places.astype(np.uint64))
    repeats = ordered[1:] >> bits == ordered[:-1] >> bits
    result = np.zeros(count, dtype=np.int64)
    if not repeats.any():
        return result
    order = (ordered & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.intp)
    first = np.concatenate([[True], ~repeats])
    result[order] = places - np.maximum.accumulate(np.where(first, places, 0))
    return result


def repeats(grams: NDArray[np.uint64]) -> int:
    """As many grams as have equal ones before them, or some more: those that share one of 16 bins a gram."""
    bits = len(grams).bit_length() + 4
    taken = np.zeros(1 << bits, dtype=bool)
    taken[(grams >> np.uint64(64 - bits)).view(np.int64)] = True
    return len(grams) - int(np.count_nonzero(taken))


def copied(grams: NDArray[np.uint64], times: int) -> NDArray[np.int64]:
    """For every gram, how many equal ones stand before it where these are ``times`` or more, else 0.

    Equal grams fall into the same bin. There are four bins a gram or more, so that of a text without loops
    few grams lie in bins of more than ``times``, and only these are sorted.
    """
    result = np.zeros(len(grams), dtype=np.int64)
    if not len(grams):
        return result
    bins = (grams >> np.uint64(64 - len(grams).bit_length() - 2)).view(np.int64)
    found = np.flatnonzero(np.bincount(bins)[bins] > times)
    copies = copies_before(grams[found])
    result[found] = np.where(copies >= times, copies, 0)
    return result


def is_among(grams: NDArray[np.uint64], members: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """For every gram, whether it is one of the sorted ``members``."""
    if not len(members):
        return np.zeros(len(grams), dtype=bool)
    at = np.searchsorted(members, grams)
    return np.asarray(members[np.minimum(at, len(members) - 1)] == grams)


def densest(marked: NDArray[np.bool_], window: int) -> Stretch | None:
    """The ``window`` symbols with the largest share of marked ones; None when there are fewer."""
    if len(marked) < window:
        return None
    total = np.concatenate([[0], np.cumsum(marked)])
    counts = total[window:] - total[:-window]
    start = int(np.argmax(counts))
    return Stretch(start, start + window, float(counts[start]) / window)
