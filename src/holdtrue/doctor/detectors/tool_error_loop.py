"""The same tool call again and again, although it fails."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading, quote
from holdtrue.doctor.tool_calls import CLOSE, OPEN, Placed, is_error, key, placed_calls, without_numbers


class ToolErrorLoop(Detector):
    """One tool is called with the same arguments time after time, and answers with the same error (numbers
    aside) or nothing. Warns; fails from ``most`` calls on. Asking again what is answered well, or otherwise
    each time (has the job ended?), is no error.
    """

    why: ClassVar = "The tool's answer does not tell the policy what to change, so it tries the same again."
    fix: ClassVar = (
        "Let the tool say what was wrong and what would be right; end or drop rollouts that repeat a call."
    )
    source: ClassVar = "Visual-Agent/DeepEyes#131; deepseek-ai/DeepSeek-V3#1630"

    most: int = 3
    """Calls in a row that are the same. A second attempt is right where a fault may pass; clients that retry
    by themselves commonly stop after three."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The longest row of same calls."""
        if "tool_call" not in reading.text:
            return
        best: list[Placed] = []
        row: list[Placed] = []
        said = last = None
        for call in placed_calls(reading):
            error = _error(reading, row[-1], call) if row and _same(row[-1], call) else None
            if error is not None and (last is None or without_numbers(error) == without_numbers(last)):
                row.append(call)
            else:
                row = [call] if error is None else [row[-1], call]
            last = error
            if row is best or len(row) > len(best):
                best, said = row, error
        if len(best) >= 2:
            shown = reading.text[best[0].start : best[0].end].strip()
            yield self.flag(
                "fail" if len(best) >= self.most else "warn",
                f"the same call x {len(best)}: {quote(shown, 160)}, answered by "
                + (quote(said) if said else "nothing"),
                span=(best[1].start - len(OPEN), best[-1].end + len(CLOSE)),
                calls=len(best),
                call=shown,
            )


def _same(before: Placed, call: Placed) -> bool:
    return before.text == call.text or key(before.text) == key(call.text)


def _error(reading: Reading, before: Placed, call: Placed) -> str | None:
    """How the call before was answered: an error, "" for nothing; None where it was answered well.

    Where the text does not tell what the tool said, the policy's words may stand among the error's, so all
    errors count as the same.
    """
    start, end = before.end + len(CLOSE), call.start - len(OPEN)
    answer, at = "", start
    near = slice(max(bisect_right(reading.own, (start, start)) - 1, 0), bisect_right(reading.own, (end, end)))
    for first, last in [*reading.own[near], (end, end)]:
        answer += reading.text[at : max(min(first, end), at)]
        at = max(at, last)
    inner = answer.partition("<tool_response>")[2].partition("</tool_response>")[0]
    answer, between = (inner or answer).strip(), reading.text[start:end].strip()
    if not is_error(answer or between):
        return None if between else ""
    return answer or "an error"
