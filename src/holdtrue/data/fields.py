"""Values of a row, checked: text, conversations and numbers. What does not fit raises :class:`BadRow`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from holdtrue.records import Message, Messages

Content = Messages | str
_T = TypeVar("_T")

LARGEST = 1e18
"""Largest number that is read: its square, which losses take, fits into float32."""
_TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
"""Roles by the marks of native HH-RLHF dialogues."""


class BadRow(Exception):
    """A row that cannot be used: ``reason`` is the class of fault (counted), ``detail`` this case of it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def show(value: Any) -> str:
    """A value of a row, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def content(row: Mapping[str, Any], column: str) -> Content:
    """Text, or messages from a list of messages or a single one; neither missing nor of another type."""
    value = _present(row, column)
    return value if isinstance(value, str) else messages(value, column)


def text(row: Mapping[str, Any], column: str) -> str:
    """Plain text; neither missing nor of another type."""
    value = _present(row, column)
    if not isinstance(value, str):
        raise BadRow("wrong type", f"{column} is {show(value)}, expected text")
    return value


def mapping(row: Mapping[str, Any], column: str) -> Mapping[str, Any]:
    """An object with named fields; neither missing nor of another type."""
    value = _present(row, column)
    if not isinstance(value, Mapping):
        raise BadRow("wrong type", f"{column} is {show(value)}, expected an object")
    return value


def items(row: Mapping[str, Any], column: str, what: str) -> list[Any]:
    """A list with at least one item."""
    value = _present(row, column)
    if not isinstance(value, list) or not value:
        raise BadRow("wrong type", f"{column} is {show(value)}, expected a list of {what}")
    return value


def objects(row: Mapping[str, Any], column: str, what: str) -> list[Mapping[str, Any]]:
    """A list with at least one item, all of them objects with named fields."""
    found = items(row, column, what)
    return [mapping({f"{column}[{i}]": value}, f"{column}[{i}]") for i, value in enumerate(found)]


def contents(row: Mapping[str, Any], column: str) -> list[Content]:
    """A list of answers, each text, messages or a single message."""
    found = items(row, column, "answers")
    return [content({f"{column}[{i}]": value}, f"{column}[{i}]") for i, value in enumerate(found)]


def option(row: Mapping[str, Any], column: str, options: Mapping[Any, _T]) -> _T:
    """What the value of a column with few values stands for."""
    value = _present(row, column)
    if not isinstance(value, (str, int, float)) or value not in options:
        known = ", ".join(repr(key) for key in options)
        raise BadRow(f"{column} out of range", f"{column} is {show(value)}, must be one of {known}")
    return options[value]


def _present(row: Mapping[str, Any], column: str) -> Any:
    value = row.get(column)
    if value is None:
        raise BadRow("missing field", f"{column} is {'null' if column in row else 'not there'}")
    return value


def messages(value: Any, column: str) -> Messages:
    """Messages from a list of ``{"role", "content"}`` objects, or from one such object."""
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list):
        raise BadRow("wrong type", f"{column} is {show(value)}, expected text or messages")
    return tuple([_message(turn, column) for turn in turns])


def _message(turn: Any, column: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow("wrong type", f"{column} holds {show(turn)}, expected messages")
    role, text = turn.get("role"), turn.get("content")
    if isinstance(text, list):
        text = _joined_parts(text, column)
    if not isinstance(role, str) or not role or not isinstance(text, str):
        raise BadRow(
            "broken message", f"a message in {column} needs text in role and content, got {show(dict(turn))}"
        )
    return Message(role, text)


def _joined_parts(parts: list[Any], column: str) -> str:
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise BadRow("not text", f"a message in {column} has content other than text: {show(parts)}")
    return "".join(part["text"] for part in parts)


def number(
    row: Mapping[str, Any], column: str, low: float = -math.inf, high: float = math.inf
) -> float | None:
    """A finite number within ``[low, high]``; None when the column is missing or null."""
    value = row.get(column)
    return None if value is None else as_number(value, column, low, high)


def as_number(value: Any, column: str, low: float = -math.inf, high: float = math.inf) -> float:
    """``value`` as a finite float within ``[low, high]``; booleans and text are not numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow(f"{column} is not a number", f"{column} is {show(value)}, expected a number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise BadRow(f"{column} is not finite", f"{column} is {show(value)}")
    if abs(result) > LARGEST:
        raise BadRow(f"{column} out of range", f"{column} is {show(value)}, must be within ±{LARGEST:g}")
    if not low <= result <= high:
        raise BadRow(f"{column} out of range", f"{column} is {show(value)}, must be {_range(low, high)}")
    return result


def per_answer(row: Mapping[str, Any], column: str, count: int) -> list[Any]:
    """A list of one value per answer; all None when the column is missing or null."""
    values = row.get(column)
    if values is None:
        return [None] * count
    if not isinstance(values, list) or len(values) != count:
        raise BadRow(f"{column} do not fit", f"{count} answers need as many {column}, got {show(values)}")
    return values


def numbers(row: Mapping[str, Any], column: str, count: int) -> list[float | None]:
    """One number or null per answer; all None when the column is missing or null."""
    values = per_answer(row, column, count)
    return [None if value is None else as_number(value, column) for value in values]


def scores(values: Mapping[str, Any]) -> dict[str, float]:
    """Aspect -> finite number; aspects that are null were not judged and are left out."""
    return {aspect: as_number(value, aspect) for aspect, value in values.items() if value is not None}


def rater(value: Any) -> str | None:
    """Who rated: text, or an integer as text; None where nobody is named."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRow("wrong type", f"rater is {show(value)}, expected text or an integer")
    return str(value)


def _range(low: float, high: float) -> str:
    return f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"


def is_dialogue(value: Any) -> bool:
    """True for text in the native form of HH-RLHF, ``"\\n\\nHuman: ...\\n\\nAssistant: ..."``."""
    if not isinstance(value, str):
        return False
    if value.startswith("\n\nHuman:"):
        return True
    return value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def dialogue(text: str, column: str) -> Messages:
    """Messages of a native HH-RLHF dialogue; the white space around each turn is not part of it."""
    text = "\n\n" + text.lstrip()
    marks = list(_TURN.finditer(text))
    if not marks or marks[0].start() != 0 or marks[0][1] != "Human":
        raise BadRow("not a dialogue", f"{column} does not start with '\\n\\nHuman:', got {show(text[2:])}")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return tuple(
        Message(ROLES[mark[1]], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)
    )


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items (characters, messages) two sequences have in common from the start."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def last_mark(text: str, limit: int) -> int:
    """Where the last turn marker that ends by character ``limit`` ends; 0 when there is none."""
    return max((mark.end() for mark in _TURN.finditer(text) if mark.end() <= limit), default=0)
