"""Tool calls of a conversation in steps: a call with the answers to it, and whether the same failed again."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdtrue.data.examples import content_of
from holdtrue.doctor.reading import Reading

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TOOLS = ("tool", "function", "observation", "ipython")
"""Roles that answer a call."""
_JSON = re.compile(r"\s*[{\[]")
_THINK = re.compile(r"</?think>")
_FAILED = re.compile(r"error|invalid|wrong|fail|exception|traceback|not found|denied|refused", re.IGNORECASE)
_WELL = re.compile(
    r"\b(?:no|0|without|without any)\s+(?:errors?|exceptions?|fail\w*)"
    r"|[\"']?\b(?:errors?|exceptions?|fail\w*)\b[\"']?\s*[:=]\s*(?:null|none|false|no\b|0\b|\"\"|''|\[\]|\{\})",
    re.IGNORECASE,
)
"""Where it is said that nothing failed."""
_DIGITS = re.compile(r"\d+")

Turn = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """Turns ``start`` to ``end`` (exclusive): one of the assistant, and what tools answered.

    Attributes:
        calls: made in it, without regard to ids, spaces and the order of arguments.
        answers: of the tools.
    """

    start: int
    end: int
    calls: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether something was called, and every answer reads as an error."""
        return bool(self.calls and self.answers) and all(map(is_error, self.answers))

    def repeats(self, before: Step | None) -> bool:
        """Whether the same calls failed alike in the step before; numbers in errors may differ."""
        return (
            before is not None
            and self.failed
            and before.failed
            and self.calls == before.calls
            and [*map(without_numbers, self.answers)] == [*map(without_numbers, before.answers)]
        )


def steps(turns: Sequence[Turn]) -> Iterator[Step]:
    """The conversation in order; turns of other roles are steps without calls."""
    at = 0
    while at < len(turns):
        end = at + 1
        while end < len(turns) and turns[end].get("role") in TOOLS:
            end += 1
        answers = tuple(content_of(turn) for turn in turns[at + 1 : end])
        yield Step(at, end, tuple(_calls(turns[at])), answers)
        at = end


def failed_runs(turns: Sequence[Turn]) -> Iterator[list[Step]]:
    """Steps in a row that fail alike, two or more."""
    run: list[Step] = []
    for step in steps(turns):
        if step.repeats(run[-1] if run else None):
            run.append(step)
            continue
        if len(run) > 1:
            yield run
        run = [step]
    if len(run) > 1:
        yield run


def is_error(answer: str) -> bool:
    """Whether a tool's answer reads as an error."""
    return _FAILED.search(_WELL.sub("", answer)) is not None


def without_numbers(answer: str) -> str:
    """A tool's answer for comparison: times and ids in it do not count."""
    return _DIGITS.sub("0", answer).strip()


def key(call: Any) -> str:
    """A call for comparison: spaces and the order of arguments do not count."""
    call = _parsed(call)
    if isinstance(call, Mapping) and "arguments" in call:
        call = {**call, "arguments": _parsed(call["arguments"])}
    return json.dumps(call, sort_keys=True, default=str)


class Placed(NamedTuple):
    """A call in a text: what stands between its tags, and where, without them."""

    text: str
    start: int
    end: int


def placed_calls(reading: Reading) -> Iterator[Placed]:
    """The calls in ``<tool_call>`` tags that the policy wrote."""
    for first, last in reading.own:
        yield from _between(reading.text, first, last)


def _between(text: str, first: int, last: int) -> Iterator[Placed]:
    """Calls of a stretch of text. A thought that only speaks of the tags calls nothing."""
    thoughts = _thoughts(text, first, last)
    at = first
    while (end := text.find(CLOSE, at, last)) >= 0:
        start = _opened(text, at, end)
        if start is not None:
            before = bisect_right(thoughts, (start, last))
            mentioned = before > 0 and start < thoughts[before - 1][1]
            if not mentioned or _JSON.match(text, start, end):
                yield Placed(text[start:end], start, end)
        at = end + len(CLOSE)


def _opened(text: str, at: int, end: int) -> int | None:
    """Where a call begins that ends here: behind the first tag with JSON behind it, else behind the last."""
    start = None
    while (tag := text.find(OPEN, at, end)) >= 0:
        start = at = tag + len(OPEN)
        if _JSON.match(text, start, end):
            break
    return start


def _thoughts(text: str, first: int, last: int) -> list[tuple[int, int]]:
    """Where thoughts stand; the first may have been opened by the prompt, the last be left open."""
    found, start, opened = [], first, False
    for mark in _THINK.finditer(text, first, last):
        opened = mark.group() == "<think>"
        if not opened:
            found.append((start, mark.start()))
        start = mark.end()
    return [*found, (start, last)] if opened else found


def declared(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]] | None:
    """The tools a row declares: name -> JSON schema of the arguments; None where it declares none.

    Args:
        row: its columns: ``tools`` (OpenAI's or Anthropic's, a list or its JSON), also inside ``request``.
    """
    given = row.get("tools")
    for outer in ("request", "body"):
        if given is None and isinstance(row.get(outer), Mapping):
            return declared(row[outer])
    given = _parsed(given)
    found = {}
    for one in given if isinstance(given, list) else ():
        tool = one.get("function", one) if isinstance(one, Mapping) else None
        if isinstance(tool, Mapping) and isinstance(tool.get("name"), str):
            schema = tool.get("parameters") or tool.get("input_schema")
            found[tool["name"]] = schema if isinstance(schema, Mapping) else {}
    return found or None


def _calls(turn: Turn) -> list[str]:
    if turn.get("role") != "assistant":
        return []
    given = turn.get("tool_calls")
    if isinstance(given, list) and given:
        return [key(call.get("function", call) if isinstance(call, Mapping) else call) for call in given]
    text = content_of(turn)
    return [key(call.text.strip()) for call in _between(text, 0, len(text))]


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return " ".join(value.split())
