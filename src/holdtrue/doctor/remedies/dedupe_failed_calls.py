"""A tool call that failed, made again and again with the same arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdtrue.doctor.remedies import Changes, DataRemedy, Row
from holdtrue.doctor.remedies._rows import shown
from holdtrue.doctor.tool_calls import Step, Turn, steps


class DedupeFailedCalls(DataRemedy):
    """Of the same tool call with the same error in a row, one stays; then the conversation goes on.

    A call and its answers are one step. A later step goes when its calls equal those of the step before and
    every answer to it is the same error, numbers aside; waiting for a job, which is no error, stays. An error
    that says what would be right helps more.
    """

    grade = "C"
    evidence = (
        "reported: a failed call left in the context is repeated (same box five times, the tool saying only "
        "INVALID); no measurement of the repair is known"
    )
    source = "Visual-Agent/DeepEyes#131; deepseek-ai/DeepSeek-V3#1630"
    mends = frozenset({"tool_says_too_little"})
    harms = "rows are prompts alone"

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """The rows with shorter conversations."""
        changes, result = Changes(), []
        for at, row in enumerate(rows):
            changed = dict(row)
            for column in ("messages", "prompt", "completion", "chosen", "rejected"):
                turns = row.get(column)
                if isinstance(turns, list) and all(isinstance(turn, Mapping) for turn in turns):
                    changed[column] = _shortened(turns, f"row {at}", changes)
            result.append(changed)
        return result, changes


def _shortened(turns: Sequence[Turn], place: str, changes: Changes) -> list[Turn]:
    kept: list[Turn] = []
    last: Step | None = None
    for step in steps(turns):
        if step.repeats(last):
            changes.note(
                "failed calls dropped", f"{place}: {shown(step.calls[0])} -> {shown(step.answers[0], 40)}"
            )
        else:
            kept += turns[step.start : step.end]
        last = step
    return kept
