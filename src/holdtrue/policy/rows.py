"""Rows of tokens while they are generated: what was drawn, and which row has ended and why."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import ModelError
from holdtrue.health.stream import LoopDetector
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import Decoding
from holdtrue.records import Finish


class Rows:
    """Takes the next token of some of N rows at a time and ends them by the rules of a :class:`Decoding`.

    Attributes:
        running: (N,) rows that have not ended.
        lengths: (N,) tokens of each, its end token counted.
    """

    def __init__(self, count: int, decoding: Decoding, vocabulary: Vocabulary, width: int) -> None:
        """N = ``count`` empty rows of a policy with ``width`` logits; ``vocabulary.eos`` ends them."""
        self.running = np.ones(count, dtype=np.bool_)
        self.lengths = np.zeros(count, dtype=np.int64)
        self._most = decoding.max_new_tokens
        self._ids = np.zeros((count, self._most), dtype=np.int64)
        self._logprobs = np.zeros((count, self._most), dtype=np.float32)
        self._finish: list[Finish] = ["length"] * count
        self._ends = np.array(sorted(vocabulary.eos), dtype=np.int64)
        ending = decoding.control == "end"
        self._control = vocabulary.banned(width) if ending else np.zeros(0, dtype=np.int64)
        self._detectors: list[LoopDetector] = []
        if decoding.loop is not None:
            self._detectors.append(LoopDetector(count, decoding.loop))
            if vocabulary.numbers is not None:
                self._detectors.append(LoopDetector(count, numbers=vocabulary.numbers))

    def update(self, rows: NDArray[np.int64], tokens: NDArray[Any], logprobs: NDArray[Any]) -> None:
        """Append a token to each of ``rows`` (R,), all of them running, and end those that end with it.

        Raises:
            ModelError: a log-probability that is not a number, as a policy with broken weights gives.
        """
        if not np.isfinite(logprobs).all():
            raise ModelError(
                f"the policy gives logits that are not finite (token {int(self.lengths[rows[0]])} of an "
                "answer); its weights or its precision are broken"
            )
        at = self.lengths[rows]
        self._ids[rows, at] = tokens
        self._logprobs[rows, at] = logprobs
        self.lengths[rows] += 1
        loops = np.zeros(len(rows), dtype=np.bool_)
        if self._detectors:
            now = np.zeros(len(self.running), dtype=np.int64)
            active = np.zeros(len(self.running), dtype=np.bool_)
            now[rows], active[rows] = tokens, True
            for detector in self._detectors:
                loops |= detector.update(now, active)[rows]
        full = self.lengths[rows] == self._most
        self._end(rows[full], "length")
        self._end(rows[loops], "loop")
        self._end(rows[np.isin(tokens, self._control)], "control")
        self._end(rows[np.isin(tokens, self._ends)], "stop")

    def settle(self, row: int, why: Finish) -> None:
        """The engine ended this row; its word counts where these rules saw no end.

        Raises:
            ModelError: it says ``stop`` and the row's last token ends no answer.
        """
        if not self.running[row]:
            return
        if why == "stop":
            raise ModelError(
                f"the engine says stop after {int(self.lengths[row])} tokens, and the last of them is none "
                f"of the end ids {self._ends.tolist()}"
            )
        self._end(np.array([row]), why)

    def _end(self, rows: NDArray[np.int64], why: Finish) -> None:
        """A later call has the better reason: an end token beats a loop or the length."""
        self.running[rows] = False
        for row in rows.tolist():
            self._finish[row] = why

    @property
    def completion_ids(self) -> list[NDArray[np.int64]]:
        """N rows of token ids."""
        return [row[:length] for row, length in zip(self._ids, self.lengths, strict=True)]

    @property
    def logprobs(self) -> list[NDArray[np.float32]]:
        """N rows of what was given with the tokens."""
        return [row[:length] for row, length in zip(self._logprobs, self.lengths, strict=True)]

    @property
    def finish(self) -> list[Finish]:
        """Why each row ended; ``length`` too for one that still runs."""
        return list(self._finish)
