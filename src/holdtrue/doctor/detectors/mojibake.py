"""Broken characters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdtrue.data.checks import BROKEN_TEXT
from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading, quote


class Mojibake(Detector):
    """Bytes that are no text: replacement characters, or UTF-8 read in another encoding.

    One or two at the end are a character that was cut; ``least`` or more fail, unless the prompt has them
    too.
    """

    why: ClassVar = "Bytes that make no UTF-8: untrained rows, a wrong detokenizer, a policy adrift."
    fix: ClassVar = "Compare the ids with the text; look for untrained rows (doctor check: W01)."
    source: ClassVar = "modelscope/ms-swift#5998"

    least: int = 3
    """Broken characters before the last two."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """All broken characters as one flag."""
        if reading.text.isascii():
            return
        places = list(reading.find(BROKEN_TEXT))
        if len(places) >= self.least and not BROKEN_TEXT.search(reading.prompt):
            first = places[0].start()
            yield self.flag(
                "fail",
                f"{len(places)} broken characters: {quote(reading.text[max(first - 20, 0) : first + 20])}",
                span=(first, places[-1].end()),
            )
