"""Exact cycles in a finished sequence of symbols (token ids, or characters as integers).

A *cycle* of period p is a stretch ``x[start:end]`` with ``x[i] == x[i - p]`` for ``start + p <= i < end``
that cannot be made longer on either side: a maximal repetition (Kolpakov and Kucherov 1999). Its cover is
``end - start`` symbols, its copies ``cover / p``, so the last copy may be a part of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from holdtrue.errors import SettingsError

Symbols = NDArray[Any]


@dataclass(frozen=True, order=True)
class Cycle:
    """``symbols[start:end]`` repeats itself every ``period`` symbols, ``copies`` times."""

    start: int
    end: int
    period: int
    copies: float

    @property
    def cover(self) -> int:
        """Length in symbols."""
        return self.end - self.start


def tail_cycle(
    symbols: Symbols, *, max_period: int, min_copies: float, min_cover: int, slack: int = 0
) -> Cycle | None:
    """The longest cycle that ends in the last ``slack`` symbols or at the end; of equals the shortest period.

    Args:
        symbols: (N,) comparable values.
        max_period: periods above it are not seen.
        min_copies: 2 or more.
        min_cover: symbols the cycle has at least.
        slack: symbols that may follow the cycle: a cut copy, an end token, a last word.

    Takes time in proportion to ``max_period`` and to the length of what repeats, not to N.
    """
    _refuse(max_period, min_copies, min_cover)
    last = len(symbols) - 1
    shortest = _least_matches(range(1, max_period + 1), min_copies, min_cover)
    best: Cycle | None = None
    # A run of `shortest` matches that ends behind the first anchor goes through one of the anchors.
    for anchor in range(max(last - slack, 0), last + 1, shortest):
        reach = symbols[max(anchor - max_period, 0) : anchor][::-1]
        periods = np.flatnonzero(reach == symbols[anchor]) + 1
        # The matches of a cycle that `last` leaves no room for behind the anchor stand before it.
        matches = np.maximum(np.ceil(min_copies * periods).astype(np.int64), min_cover) - periods
        before = np.maximum(matches - 1 - (last - anchor), 0)
        inside = before + periods <= anchor
        periods, first = periods[inside], anchor - before[inside]
        periods = periods[symbols[first] == symbols[first - periods]]
        while len(periods):
            found = _maximal(symbols, anchor, int(periods[0]))
            if _enough(found, min_copies, min_cover) and (
                best is None or (found.cover, -found.period) > (best.cover, -best.period)
            ):
                best = found
            # A multiple is the same cycle, counted in larger pieces (Fine and Wilf).
            same = (periods % found.period == 0) & (periods <= found.cover)
            periods = periods[~same]
    return best


def cycles(symbols: Symbols, *, max_period: int, min_copies: float, min_cover: int) -> list[Cycle]:
    """All cycles of a sequence, by their start; a stretch is named by its shortest period alone.

    The arguments are those of :func:`tail_cycle`. Takes about ``8 / (min_copies - 1)`` comparisons a symbol
    for each doubling of the period.
    """
    _refuse(max_period, min_copies, min_cover)
    found: list[Cycle] = []
    for cycle in _candidates(symbols, max_period, min_copies, min_cover):
        # Its shortest period divides every other one (Fine and Wilf), and came first.
        if not any(
            cycle.period % shorter.period == 0 and shorter.start <= cycle.start and cycle.end <= shorter.end
            for shorter in found
        ):
            found.append(cycle)
    return sorted(found)


def _candidates(symbols: Symbols, max_period: int, min_copies: float, min_cover: int) -> Iterator[Cycle]:
    """Every maximal cycle of every period, the shorter periods first.

    ``m`` matches in a row hold at least ``m // step`` of the positions 0, step, 2 step ...; only these are
    compared, for periods low..high-1 at once, and a cycle is looked for where as many of them match in a row.
    """
    low = 1
    while low <= max_period and low < len(symbols):
        high = min(2 * low, max_period + 1)
        matches = _least_matches(range(low, high), min_copies, min_cover)
        step = max(matches // 8, 1)
        anchors = np.arange(-(-(high - 1) // step) * step, len(symbols), step)
        # Anchors before the longest period of this turn can only be compared with the shorter ones.
        head = np.arange(-(-low // step) * step, anchors[0] if len(anchors) else len(symbols), step)
        at = np.concatenate([head, anchors])
        equal = np.zeros((len(at) + 2, high - low), dtype=bool)
        for row, anchor in enumerate(head.tolist(), start=1):
            seen = symbols[max(anchor - high + 1, 0) : anchor - low + 1][::-1]
            equal[row, : len(seen)] = seen == symbols[anchor]
        if len(anchors):
            behind = sliding_window_view(symbols, high - low)[anchors[0] - high + 1 :: step][: len(anchors)]
            equal[len(head) + 1 : -1] = (behind == symbols[anchors][:, None])[:, ::-1]
        yield from _in_rows(symbols, at, equal, low, matches // step, min_copies, min_cover)
        low = high


def _in_rows(
    symbols: Symbols,
    at: NDArray[np.int64],
    equal: NDArray[np.bool_],
    low: int,
    least: int,
    min_copies: float,
    min_cover: int,
) -> Iterator[Cycle]:
    """The cycles of the periods ``low + column`` where at least ``least`` anchors in a row match."""
    columns = np.ascontiguousarray(equal.T)
    # Each row begins and ends with False, so changes come in pairs: the first match, and behind the last.
    changes = np.flatnonzero(columns[:, 1:] != columns[:, :-1]).reshape(-1, 2)
    column, edge = np.divmod(changes[changes[:, 1] - changes[:, 0] >= least], columns.shape[1] - 1)
    for period, (begin, end) in zip((column[:, 0] + low).tolist(), edge.tolist(), strict=True):
        position = -1
        # A cycle holds `least` anchors in a row, so one of these.
        for anchor in at[begin + least - 1 : end : least].tolist():
            if anchor < position:
                continue
            found = _maximal(symbols, anchor, period)
            position = found.end
            if _enough(found, min_copies, min_cover):
                yield found


def _maximal(symbols: Symbols, anchor: int, period: int) -> Cycle:
    """The cycle through ``anchor``, where the symbol is that of ``period`` before."""
    end = anchor + 1 + _agreement(symbols[anchor + 1 :], symbols[anchor + 1 - period :])
    before = _agreement(symbols[:anchor][::-1], symbols[: anchor - period][::-1])
    start = anchor - before - period
    return Cycle(start, end, period, (end - start) / period)


def _agreement(a: Symbols, b: Symbols) -> int:
    """How many symbols two sequences begin with alike; read in pieces that double, so that most end early."""
    most, done, size = min(len(a), len(b)), 0, 32
    while done < most:
        stop = min(done + size, most)
        same = a[done:stop] == b[done:stop]
        first = int(same.argmin())
        if not same[first]:
            return done + first
        done, size = stop, 2 * size
    return most


def _least_matches(periods: range, min_copies: float, min_cover: int) -> int:
    """Matches in a row that a cycle of any of the periods has at least.

    Period p needs ``max(ceil(min_copies p), min_cover) - p``. That falls with p while the cover decides, then
    rises, as copies are 2 or more: the least stands where one takes over from the other.
    """
    turn = int(min_cover / min_copies)
    nearest = (min(max(period, periods[0]), periods[-1]) for period in (turn, turn + 1))
    return max(1, min(max(math.ceil(min_copies * period), min_cover) - period for period in nearest))


def _enough(cycle: Cycle, min_copies: float, min_cover: int) -> bool:
    return cycle.cover >= min_cover and cycle.copies >= min_copies


def _refuse(max_period: int, min_copies: float, min_cover: int) -> None:
    if max_period < 1 or min_copies < 2 or min_cover < 1:
        raise SettingsError(
            f"a cycle has a period of 1 or more, 2 copies or more and covers 1 symbol or more; "
            f"seen max_period {max_period}, min_copies {min_copies}, min_cover {min_cover}"
        )
