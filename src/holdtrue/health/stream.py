"""Loops while they are being generated: exact repetition at the end of many rows of tokens at once.

A row loops when its last ``p * min_count`` tokens repeat with a period ``p`` from ``min_pattern_size`` to
``max_pattern_size``: the rule, and the names, of ``repetition_detection`` in vLLM's sampling parameters
(``vllm.sampling_params.RepetitionDetectionParams``, vLLM 0.17 on, vllm-project/vllm PR 35451). Here the loop
must also cover ``min_cover`` tokens, so that a ruler of four dashes does not end an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from holdtrue.errors import DataError, SettingsError

NOTHING = -(2**31)
"""Stands in the history where no token came yet."""
NUMBER = NOTHING + 1
"""Stands for every number."""
LONGEST = 2**14
"""Runs are counted in 16 bits: up to here at least, up to twice as far at most."""

NEVER = 2**16 - 1


@dataclass(frozen=True)
class RepetitionDetection:
    """When a row of tokens counts as looping."""

    max_pattern_size: int = 256
    """Longest period, in tokens: whole paragraphs are repeated too. vLLM compares pattern sizes one by one in
    Python, for every token of every request; with many requests a lower value may be worth its misses."""
    min_pattern_size: int = 1
    """Shortest period. A loop of period 1 is one of period 2, 3, ... as well, here and in vLLM."""
    min_count: int = 4
    """Copies of the pattern. Three are met in healthy lists, refrains and tables."""
    min_cover: int = 96
    """Tokens the loop covers in all. vLLM has no such field; there longer patterns are asked for instead."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_pattern_size <= self.max_pattern_size:
            raise SettingsError(
                f"pattern sizes go from 1 or more up; seen min_pattern_size {self.min_pattern_size}, "
                f"max_pattern_size {self.max_pattern_size}"
            )
        if self.min_count < 2 or self.min_cover < 0:
            raise SettingsError(
                f"a loop has 2 copies or more and covers 0 tokens or more; seen min_count {self.min_count}, "
                f"min_cover {self.min_cover}"
            )
        if max(self.max_pattern_size * self.min_count, self.min_cover) > LONGEST:
            raise SettingsError(
                f"max_pattern_size * min_count and min_cover are {LONGEST} at most; seen "
                f"{self.max_pattern_size * self.min_count} and {self.min_cover}"
            )

    def vllm(self) -> dict[str, int]:
        """The value of vLLM's ``repetition_detection`` that stops the same loops, none of them earlier.

        Its patterns need not be primitive: ``min_pattern_size * min_count >= min_cover`` keeps the cover, and
        a shorter loop is seen by a multiple of its period.
        """
        least = -(-self.min_cover // self.min_count)
        if max(least, self.min_pattern_size) > self.max_pattern_size:
            raise SettingsError(
                f"vLLM cannot keep min_cover {self.min_cover} with patterns of up to {self.max_pattern_size} "
                f"tokens x {self.min_count}; raise max_pattern_size to {least} or more"
            )
        return {
            "max_pattern_size": self.max_pattern_size,
            "min_pattern_size": max(least, self.min_pattern_size),
            "min_count": self.min_count,
        }


NEAR = RepetitionDetection(max_pattern_size=64, min_pattern_size=3, min_count=10, min_cover=128)
"""For tokens whose numbers are made equal: tables and lists look alike then, so more copies are asked for."""


class LoopDetector:
    """Watches rows of tokens that grow one token at a time; rows need not begin or end together.

    For each row and period p it counts the tokens in a row that equal the one p before them,
    ``run[p] = run[p] + 1 if token[t] == token[t - p] else 0``; the loop of period p covers ``run[p] + p``.
    So a token costs ``max_pattern_size`` steps of arithmetic, whatever came before.

    Attributes:
        lengths: (R,) tokens seen in each row.
        looping: (R,) whether the row has looped.
        period: (R,) of the loop, the shortest when several fit; 0 while there is none.
        copies: (R,) of its pattern when it was found.
        onset: (R,) first token of the loop, counted from the row's first; -1 while there is none.
        seen_at: (R,) tokens seen when it was found; -1 while there is none.
    """

    def __init__(
        self,
        rows: int,
        rule: RepetitionDetection | None = None,
        *,
        numbers: NDArray[np.bool_] | None = None,
    ) -> None:
        """Watch ``rows`` rows.

        Args:
            rows: R.
            rule: when a row loops; by default :class:`RepetitionDetection`, with numbers :data:`NEAR`.
            numbers: (V,) True for the tokens that are digits. All of them count as one, and those that follow
                each other as a single token, so "Step 9", "Step 10" repeat. Positions stay those of the row.
        """
        self.rule = rule or (RepetitionDetection() if numbers is None else NEAR)
        self.numbers = numbers
        width = self.rule.max_pattern_size
        # Column j is period width - j: the order in which the last tokens lie in the history.
        periods = np.arange(width, 0, -1)
        need = np.maximum(periods * (self.rule.min_count - 1), np.maximum(self.rule.min_cover - periods, 1))
        need[periods < self.rule.min_pattern_size] = NEVER
        self._need = need.astype(np.uint16)
        self._run = np.zeros((rows, width), dtype=np.uint16)
        # The last `width` tokens, written twice: they lie in one piece, wherever the ring begins.
        self._history = np.full((rows, 2 * width), NOTHING, dtype=np.int32)
        self._windows = sliding_window_view(self._history, width, axis=1)
        # Where in its row each token that counts stood: numbers make the two differ.
        self._places = np.zeros(
            (rows, max(width * self.rule.min_count, self.rule.min_cover, width + 1)), dtype=np.int32
        )
        self._counted = np.zeros(rows, dtype=np.int64)
        self._in_number = np.zeros(rows, dtype=np.bool_)
        self._updates = 0
        self.lengths = np.zeros(rows, dtype=np.int64)
        self.looping = np.zeros(rows, dtype=np.bool_)
        self.period = np.zeros(rows, dtype=np.int64)
        self.copies = np.zeros(rows, dtype=np.float64)
        self.onset = np.full(rows, -1, dtype=np.int64)
        self.seen_at = np.full(rows, -1, dtype=np.int64)

    @classmethod
    def over(
        cls,
        sequences: Sequence[NDArray[Any] | Sequence[int]],
        rule: RepetitionDetection | None = None,
        *,
        numbers: NDArray[np.bool_] | None = None,
    ) -> LoopDetector:
        """A detector that has seen whole sequences, as if they had been generated side by side."""
        rows = [np.asarray(sequence, dtype=np.int64).ravel() for sequence in sequences]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        tokens = np.zeros((lengths.max(initial=0), len(rows)), dtype=np.int64)
        for column, row in enumerate(rows):
            tokens[: len(row), column] = row
        detector = cls(len(rows), rule, numbers=numbers)
        for step, now in enumerate(tokens):
            detector.update(now, lengths > step)
        return detector

    def update(
        self, tokens: NDArray[Any] | Sequence[int], active: NDArray[np.bool_] | None = None
    ) -> NDArray[np.bool_]:
        """Take the next token (R,) of each row that is active (R,), by default all; (R,) newly looping.

        What comes after a row has looped changes no more than its length.
        """
        tokens = np.asarray(tokens)
        if tokens.shape != self.lengths.shape:
            raise DataError(f"a token for each of {len(self.lengths)} rows is expected; seen {tokens.shape}")
        awake = np.ones(len(tokens), np.bool_) if active is None else np.asarray(active, np.bool_)
        self.lengths += awake
        rows = np.flatnonzero(awake & ~self.looping)
        now = tokens[rows].astype(np.int32)
        if self.numbers is not None:
            rows, now = self._merge_numbers(rows, now)
        found = self._advance(rows, now)
        newly = np.zeros(len(tokens), np.bool_)
        newly[found] = True
        return newly

    def reset(self, rows: NDArray[Any] | Sequence[int]) -> None:
        """Begin these rows anew: another answer takes their place."""
        for values, start in (
            (self._run, 0),
            (self._history, NOTHING),
            (self._counted, 0),
            (self._in_number, False),
            (self.lengths, 0),
            (self.looping, False),
            (self.period, 0),
            (self.copies, 0.0),
            (self.onset, -1),
            (self.seen_at, -1),
        ):
            values[rows] = start

    def _merge_numbers(
        self, rows: NDArray[np.int64], now: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        assert self.numbers is not None
        known = (now >= 0) & (now < len(self.numbers))
        digit = known & self.numbers[np.where(known, now, 0)]
        first = ~(digit & self._in_number[rows])
        self._in_number[rows] = digit
        return rows[first], np.where(digit, np.int32(NUMBER), now)[first]

    def _advance(self, rows: NDArray[np.int64], now: NDArray[np.int32]) -> NDArray[np.int64]:
        """Append one token to each of ``rows``; those of them that loop from now on."""
        width = self.rule.max_pattern_size
        at = self._counted[rows] % width
        run = self._run[rows]
        run += 1
        run *= self._windows[rows, at] == now[:, None]
        self._run[rows] = run
        self._updates += 1
        if self._updates % LONGEST == 0:
            np.minimum(self._run, LONGEST, out=self._run)
        self._history[rows, at] = self._history[rows, at + width] = now
        self._places[rows, self._counted[rows] % self._places.shape[1]] = self.lengths[rows] - 1
        self._counted[rows] += 1
        fits = run >= self._need
        hit = np.flatnonzero(fits.any(axis=1))
        found: NDArray[np.int64] = rows[hit]
        if len(found):
            period = 1 + fits[hit, ::-1].argmax(axis=1)
            cover = period + run[hit, width - period]
            first = (self._counted[found] - cover) % self._places.shape[1]
            self.looping[found] = True
            self.period[found] = period
            self.copies[found] = cover / period
            self.onset[found] = self._places[found, first]
            self.seen_at[found] = self.lengths[found]
        return found
