"""The answer says almost the same again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.detectors.tail_cycle import TailCycle
from holdtrue.doctor.reading import Grams, Reading, quote
from holdtrue.health.repetition import copied, densest, is_among, repeats


class NearLoop(Detector):
    """A long stretch has been said at least twice before, with small changes: counters, single words.

    Fails when of some ``window`` characters ``share`` or more, or of half as many ``share_of_half``,
    belong to grams of 20 characters that stand twice in the answer before; where half of a gram is
    letters, digits are read as one, so that counters do not hide a loop. Code given twice has one earlier
    copy, not two; a table's cells break its grams. An exact cycle at the end is left to
    :mod:`~holdtrue.doctor.detectors.tail_cycle`.
    """

    why: ClassVar = "The policy moves in a circle although no two rounds are quite the same."
    fix: ClassVar = (
        "Leave such samples out of the update; give the reward a term that sees repetition in a window; "
        "remove such targets from the data."
    )
    source: ClassVar = "JIA-Lab-research/Seg-Zero#90; 2310.10226 (repetition in the data)"

    window: int = 1_600
    """Characters: some 400 tokens, longer than what people repeat on purpose."""
    share: float = 0.7
    """Of the window."""
    share_of_half: float = 0.8
    """Of half the window."""
    tokens: int = 400
    """The window where there are only token ids."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The densest window, and where its repetition begins."""
        for start, turn in reading.turns if reading.text else [(0, reading)]:
            yield from self._of_turn(turn, start)

    def _of_turn(self, reading: Reading, offset: int) -> Iterator[Flag]:
        window = self.window if reading.text else self.tokens
        least = min(self.share * window, self.share_of_half * window / 2)
        if len(reading.text or reading.body) < least or any(TailCycle().check(reading)):
            return
        grams = reading.loose if reading.text else reading.tokens
        if repeats(grams.hashes) < least:
            return
        copies = copied(grams.hashes, 2)
        twice = copies >= 2
        if np.count_nonzero(twice) < least:
            return
        if reading.text and (twice & (bare := ~reading.worded)).any():
            # Equal grams have equally many letters, so none of the others is like these.
            twice[bare] = copied(reading.strict.hashes[bare], 2) >= 2
        full = densest(twice, window)
        half = densest(twice, window // 2)
        enough = (full and full.repeated >= self.share) or (half and half.repeated >= self.share_of_half)
        if not enough:
            return
        start = int(grams.at[_begin(grams, copies, window // 8)])
        seen = full or half
        assert seen is not None
        stop = int(grams.at[min(seen.end, len(grams.at)) - 1]) + 1
        share = max(part.repeated for part in (full, half) if part)
        evidence = f"{share:.0%} of {window} {'characters' if reading.text else 'ids'} said twice before"
        if reading.text:
            yield self.flag(
                "fail",
                f"{evidence}: {quote(reading.text[start : start + 160])}",
                span=(offset + start, offset + max(stop, start + 1)),
                share=round(share, 3),
            )
        else:
            yield self.flag("fail", evidence, tokens=(start, max(stop, start + 1)), share=round(share, 3))


def _begin(grams: Grams, copies: NDArray[np.int64], window: int) -> int:
    """The first gram of the first window most of whose grams come back at least twice later or before."""
    thrice = np.sort(grams.hashes[copies == 2])  # each gram that stands three times has one such place
    size, first = 8 * window, 0
    while first < len(grams.hashes):
        often = is_among(grams.hashes[first : first + size], thrice)
        total = np.concatenate([[0], np.cumsum(often)])
        dense = np.flatnonzero(total[window:] - total[:-window] >= 0.8 * window)
        if len(dense):
            return first + int(dense[0]) + int(often[dense[0] :].argmax())
        first, size = first + size - window, 2 * size
    return int(is_among(grams.hashes, thrice).argmax())
