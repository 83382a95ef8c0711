"""The answer ends in a cycle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Grams, Reading, quote
from holdtrue.health.cycles import Cycle, tail_cycle
from holdtrue.health.repetition import codes


class TailCycle(Detector):
    """The answer ends in exact copies of one piece: a word, a line, a block.

    Fails when ``min_cover`` characters or more at the end are ``min_copies`` copies or more. Tables, code
    and songs repeat too, but go on: only the end counts, with ``slack`` characters behind it at most.
    Where there is no text, token ids are read with ``min_tokens``.
    """

    why: ClassVar = "A policy that cannot leave a loop runs to the length limit; trained on, it learns to."
    fix: ClassVar = (
        "Abort such samples while they are generated (repetition_detection), leave them out of the update, "
        "and remove repeated targets from the data."
    )
    source: ClassVar = "vllm-project/vllm PR 35451; Holtzman et al. 2020 (1904.09751)"

    min_cover: int = 150
    """Characters; half as many of Chinese or Japanese. Below, refrains and rows of a table reach four copies.
    Of white space at the end twice as many fail."""
    min_copies: float = 4
    """Copies; a piece of ``min_cover`` characters or more needs one less."""
    max_period: int = 4_000
    """Characters of the longest piece that is looked for."""
    slack: int = 16
    """Characters after the last copy."""
    min_tokens: int = 48
    """Token ids covered, where there is no text."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The longest cycle at the end of each turn, and white space that does not end."""
        for start, turn in reading.turns if reading.text else ():
            cycle = self._of_text(turn)
            if cycle is not None:
                piece = turn.text[cycle.start : cycle.start + cycle.period]
                span = (start + cycle.start, start + cycle.end)
                yield self._flag(cycle, f"{quote(piece)} x {_count(cycle.copies)}", span, None)
        blank = len(reading.text) - len(reading.text.rstrip())
        if blank >= 2 * self.min_cover:
            span = (len(reading.text) - blank, len(reading.text))
            yield self.flag("fail", f"white space x {blank}", span=span, signature="short loop", period=1)
        if not reading.text and len(reading.body):
            cycle = self._cycle(reading.tokens, self.min_tokens)
            if cycle is not None:
                ids = reading.body[cycle.start : cycle.start + min(cycle.period, 8)].tolist()
                tokens = (cycle.start, cycle.end)
                yield self._flag(cycle, f"ids {ids} x {_count(cycle.copies)}", (None, None), tokens)

    def _of_text(self, turn: Reading) -> Cycle | None:
        text, end = turn.text, turn.end
        tail = text[max(end - self.min_cover, 0) : end]
        dense = not tail.isascii() and np.count_nonzero(codes(tail) >= 0x2E80) > len(tail) / 2
        cover = self.min_cover // (2 if dense else 1)  # of Chinese and Japanese half as many say as much
        # Half of a cycle or more has stood a period before: nearly all healthy texts are told by their ends.
        said = text[max(end - cover // 2, 0) : max(end - self.slack, 0)]
        if end < cover or text.find(said, 0, end - self.slack - 1) < 0:
            return None
        return self._cycle(turn.exact, cover)

    def _flag(
        self,
        cycle: Cycle,
        what: str,
        span: tuple[int | None, int | None],
        tokens: tuple[int, int] | None,
    ) -> Flag:
        size = "long" if cycle.period > 40 else "short"
        return self.flag(
            "fail",
            what,
            span=span,
            tokens=tokens,
            signature=f"{size} loop",
            period=cycle.period,
            copies=round(cycle.copies, 1),
        )

    def _cycle(self, grams: Grams, min_cover: int) -> Cycle | None:
        """Cycles are looked for among grams, which are far fewer alike than symbols."""
        count, extra = len(grams.hashes), grams.width - 1
        found = tail_cycle(
            grams.hashes,
            max_period=self.max_period,
            min_copies=2,
            min_cover=max(min_cover - extra, 2),
            slack=self.slack + extra,
        )
        if found is None:
            return None
        end = found.end + extra
        cycle = Cycle(found.start, end, found.period, (end - found.start) / found.period)
        near_end = count + extra - end <= self.slack
        needed = self.min_copies - (cycle.period >= min_cover)
        return cycle if near_end and cycle.copies >= needed else None


def _count(copies: float) -> str:
    """``32`` or ``32.5``."""
    return f"{copies:.1f}".removesuffix(".0")
