"""An answer that ends while it is still thinking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading


class EosInThink(Detector):
    """A ``<think>`` that is never closed. Fails when the policy ended its turn, warns when it was cut off."""

    why: ClassVar = "The answer is empty for whoever reads what follows the thoughts."
    fix: ClassVar = (
        "Ban the end token until </think>; raise the limit when answers are cut; "
        "score unclosed thoughts as empty answers."
    )
    source: ClassVar = "QwenLM/Qwen3.8#216"

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The last thought, when it stays open."""
        start = reading.text.rfind("<think>")
        if start < 0:
            if not reading.prompt.rstrip().endswith("<think>") or "</think>" in reading.text:
                return
            start = 0
        elif "</think>" in reading.text[start:]:
            return
        cut = reading.rollout.finish == "length"
        evidence = f"<think> is not closed in {len(reading.text) - start} characters"
        yield self.flag(
            "warn" if cut else "fail",
            evidence + (", the length limit cut it" if cut else ", and the turn was ended"),
            span=(start, len(reading.text)),
        )
