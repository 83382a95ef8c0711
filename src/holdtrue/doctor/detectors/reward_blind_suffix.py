"""Text after the last tag that a reward reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import CONTROL, Reading, quote

_TAGS = ("tool_call", "answer")
_CLOSING = re.compile(rf"</({'|'.join(_TAGS)})>")


class RewardBlindSuffix(Detector):
    """Something stands between the last ``</tool_call>`` or ``</answer>`` and the end of the turn.

    Rewards and tools take the last tag and ignore what follows, so that gets the advantage of what it
    follows. Warns; fails when the suffix holds control tokens or is longer than ``most`` characters.
    """

    why: ClassVar = (
        "What the reward cannot see is neither taught nor punished: the policy drifts there freely."
    )
    fix: ClassVar = (
        "Make the reward see the suffix: none for an answer that has one (veto); stop generation at the tag. "
        "KL alone keeps a habit that the reference has too."
    )
    source: ClassVar = "Visual-Agent/DeepEyes#131, #24"

    most: int = 200
    """Characters of a suffix that may be a remark."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The suffix of the last turn that has one."""
        if "</" not in reading.text:
            return
        for start, end in reversed(reading.own):
            opened = {tag: reading.text.find(f"<{tag}>", start, end) for tag in _TAGS}
            closings = [
                one
                for one in _CLOSING.finditer(reading.text, start, end)
                if 0 <= opened[one.group(1)] < one.start()
                and reading.text[one.start() - 1 : one.start()] != "`"
            ]
            if not closings:
                continue
            last = closings[-1]
            junk = reading.text[last.end() : end]
            if junk.strip():
                begin = last.end() + len(junk) - len(junk.lstrip())
                bad = CONTROL.search(junk) is not None or len(junk) > self.most
                yield self.flag(
                    "fail" if bad else "warn",
                    f"{end - begin} characters after {last.group()}: {quote(junk.strip())}",
                    span=(begin, end),
                    signature=f"text after {last.group()}",
                )
            return
