"""The same tool call again and again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading, quote

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


class ToolErrorLoop(Detector):
    """One tool is called with the same arguments time after time. Warns; fails from ``most`` calls on."""

    why: ClassVar = "The tool's answer does not tell the policy what to change, so it tries the same again."
    fix: ClassVar = (
        "Let the tool say what was wrong and what would be right; end or drop rollouts that repeat a call."
    )
    source: ClassVar = "Visual-Agent/DeepEyes#131; deepseek-ai/DeepSeek-V3#1630"

    most: int = 3
    """Calls in a row that are the same."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The longest row of same calls."""
        if "tool_call" not in reading.text:
            return
        calls = [(_key(found.group(1)), found) for found in _CALL.finditer(reading.text)]
        best: list[Any] = []
        row: list[Any] = []
        for key, found in calls:
            row = [*row, (key, found)] if row and row[-1][0] == key else [(key, found)]
            best = max(best, row, key=len)
        if len(best) >= 2:
            yield self.flag(
                "fail" if len(best) >= self.most else "warn",
                f"the same call x {len(best)}: {quote(best[0][1].group(1), 160)}",
                span=(best[1][1].start(), best[-1][1].end()),
                calls=len(best),
            )


def _key(call: str) -> str:
    """A call without regard to spaces and the order of arguments."""
    try:
        return json.dumps(json.loads(call), sort_keys=True)
    except (ValueError, RecursionError):
        return " ".join(call.split())
