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
        """The first turn whose thought stays open; a thought begins the turn."""
        given = reading.prompt.rstrip().endswith("<think>")
        for index, (start, turn) in enumerate(reading.turns):
            opened = turn.text.lstrip().startswith("<think>") or (given and not index)
            if not opened or "</think>" in turn.text:
                continue
            cut = reading.rollout.finish == "length" and index == len(reading.turns) - 1
            yield self.flag(
                "warn" if cut else "fail",
                f"<think> is not closed in {len(turn.text)} characters"
                + (", the length limit cut it" if cut else ", and the turn was ended"),
                span=(start, start + len(turn.text)),
            )
            return
