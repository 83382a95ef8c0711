"""Nothing was said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading


class EmptyAnswer(Detector):
    """No letter, digit or sign but end tokens, also after the thoughts. Fails."""

    why: ClassVar = (
        "The policy ends its turn at once; a reward that gives 0 to it may still prefer it to a wrong answer."
    )
    fix: ClassVar = (
        "Give empty answers the lowest reward; look at min_tokens, and at templates that open a turn twice."
    )
    source: ClassVar = "QwenLM/Qwen3.8#216"

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The whole answer."""
        start, last = reading.turns[-1]
        said = last.text[: last.end]
        if "</think>" in said:
            said = said.rpartition("</think>")[2]
        if not said.strip() and not (len(reading.body) and reading.vocabulary is None):
            seen = f"{len(reading.text) - start} characters, none of them says anything"
            yield self.flag("fail", seen, span=(start, len(reading.text)))
