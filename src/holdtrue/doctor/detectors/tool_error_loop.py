"""The same tool call again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading, quote
from holdtrue.doctor.tool_calls import key


class ToolErrorLoop(Detector):
    """One tool is called with the same arguments time after time. Warns; fails from ``most`` calls on."""

    why: ClassVar = "The tool's answer does not tell the policy what to change, so it tries the same again."
    fix: ClassVar = (
        "Let the tool say what was wrong and what would be right; end or drop rollouts that repeat a call."
    )
    source: ClassVar = "Visual-Agent/DeepEyes#131; deepseek-ai/DeepSeek-V3#1630"

    most: int = 3
    """Calls in a row that are the same. A second attempt is right where a fault may pass; clients "
    "that retry by
    themselves commonly stop after three."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The longest row of same calls."""
        if "tool_call" not in reading.text:
            return
        calls = [(key(reading.text[start:end]), start, end) for start, end in _calls(reading)]
        best: list[tuple[str, int, int]] = []
        row: list[tuple[str, int, int]] = []
        for call in calls:
            if row and row[-1][0] == call[0]:
                row.append(call)
            else:
                row = [call]
            best = row if len(row) > len(best) else best
        if len(best) >= 2:
            _, start, end = best[0]
            said = reading.text[start:end].strip()
            yield self.flag(
                "fail" if len(best) >= self.most else "warn",
                f"the same call x {len(best)}: {quote(said, 160)}",
                span=(best[1][1] - len("<tool_call>"), best[-1][2] + len("</tool_call>")),
                calls=len(best),
                call=said,
            )


def _calls(reading: Reading) -> Iterator[tuple[int, int]]:
    """Where the policy's calls stand, without their tags."""
    for first, last in reading.own:
        at = first
        while (start := reading.text.find("<tool_call>", at, last)) >= 0:
            end = reading.text.find("</tool_call>", start, last)
            if end < 0:
                break
            yield start + len("<tool_call>"), end
            at = end
