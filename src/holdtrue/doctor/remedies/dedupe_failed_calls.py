"""A tool call that failed, made again and again with the same arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from holdtrue.doctor.remedies import Changes, DataRemedy, Row
from holdtrue.doctor.remedies._rows import shown, text_of

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_TOOLS = ("tool", "function", "observation", "ipython")
_FAILED = re.compile(r"error|invalid|wrong|fail|exception|traceback|not found|denied|refused", re.IGNORECASE)

Turn = Mapping[str, Any]


class DedupeFailedCalls(DataRemedy):
    """Of the same tool call with the same error in a row, one stays; then the conversation goes on.

    A call and its answers are one step. A later step goes when its calls equal those of the step before and
    every answer to it is the same error; waiting for a job, which is no error, stays. An error that says what
    would be right helps more.
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
    last: tuple[list[str], list[str]] | None = None
    at = 0
    while at < len(turns):
        end = at + 1
        while end < len(turns) and turns[end].get("role") in _TOOLS:
            end += 1
        calls = _calls(turns[at])
        answers = [text_of(turn.get("content")) for turn in turns[at + 1 : end]]
        step = (calls, answers) if calls and answers and all(map(_FAILED.search, answers)) else None
        if step is not None and step == last:
            changes.note("failed calls dropped", f"{place}: {shown(calls[0])} -> {shown(answers[0], 40)}")
        else:
            kept += turns[at:end]
        last, at = step, end
    return kept


def _calls(turn: Turn) -> list[str]:
    """The calls of an assistant's turn, without regard to ids, spaces and the order of arguments."""
    if turn.get("role") != "assistant":
        return []
    given = turn.get("tool_calls")
    if isinstance(given, list) and given:
        return [_key(call.get("function", call) if isinstance(call, Mapping) else call) for call in given]
    return [_key(found) for found in _CALL.findall(text_of(turn.get("content")))]


def _key(call: Any) -> str:
    if isinstance(call, Mapping):
        arguments = call.get("arguments")
        return json.dumps({**call, "arguments": _parsed(arguments)}, sort_keys=True, default=str)
    return json.dumps(_parsed(call), sort_keys=True, default=str)


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return " ".join(value.split())
