"""Training rows as remedies see them: who says what in which column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdtrue.data.examples import beside
from holdtrue.errors import DataError

ASKED: Mapping[str, str] = {"prompt": "user", "instruction": "user", "input": "user", "system": "system"}
"""Columns whose strings are no answers, and who says them."""
LEARNED = ("messages", "conversations", "chosen", "completion", "response", "output")
"""Columns whose (last) answer is learned, the first that is there; see :mod:`holdtrue.data.examples`."""
TURNS = (*ASKED, *LEARNED, "rejected")
"""Columns that hold text or messages."""

Said = Callable[[str, str], str]
"""(role, text) -> the text instead."""


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def said_in(turn: Mapping[str, Any]) -> str:
    """What a turn says, also in ShareGPT's ``value``."""
    return text_of(turn.get("content", turn.get("value")))


def target(row: Mapping[str, Any]) -> str | None:
    """The answer a row teaches; None where it teaches none."""
    for column in LEARNED:
        value = row.get(column)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            answers = [turn for turn in value if role_of(turn) == "assistant"]
            return said_in(answers[-1]) if answers else None
    return None


def beside_answers(row: Mapping[str, Any], *, last: bool = False) -> list[str]:
    """Thoughts and calls' arguments of the answers that a row teaches, or of the last one alone."""
    value = next((row[name] for name in LEARNED if isinstance(row.get(name), str | list)), None)
    turns = value if isinstance(value, list) else []
    answers = [turn for turn in turns if role_of(turn) == "assistant"]
    return [text for turn in (answers[-1:] if last else answers) for _, text in beside(turn)]


def prompt(row: Mapping[str, Any]) -> str:
    """What stands before the target, as text."""
    column = next(
        (name for name in ("prompt", "instruction", "messages", "conversations") if name in row), ""
    )
    value = row.get(column)
    if isinstance(value, str):
        return "\n\n".join(filter(None, [value, row.get("input") if column == "instruction" else None]))
    turns = value if isinstance(value, list) else []
    if column != "prompt" and turns and role_of(turns[-1]) == "assistant":
        turns = turns[:-1]
    return "\n\n".join(said_in(turn) for turn in turns if isinstance(turn, Mapping))


def rewrite(row: Mapping[str, Any], said: Said) -> dict[str, Any]:
    """The row with every text replaced by ``said(role, text)``; a copy where anything changes."""
    result = dict(row)
    for column in TURNS:
        value = row.get(column)
        if isinstance(value, str):
            result[column] = said(ASKED.get(column, "assistant"), value)
        elif isinstance(value, list):
            result[column] = [_rewritten(turn, said) for turn in value]
    return result


def _rewritten(turn: Any, said: Said) -> Any:
    if not isinstance(turn, Mapping):
        return turn
    role, key = role_of(turn), "value" if "value" in turn and "content" not in turn else "content"
    content = turn.get(key)
    if isinstance(content, str):
        return {**turn, key: said(role, content)}
    if isinstance(content, list):
        parts = [
            {**part, "text": said(role, part["text"])}
            if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            else part
            for part in content
        ]
        return {**turn, key: parts}
    return dict(turn)


def role_of(turn: Any) -> str:
    """Who says a turn, in the words of chat templates."""
    role = str(turn.get("role") or turn.get("from") or "") if isinstance(turn, Mapping) else ""
    return {"gpt": "assistant", "human": "user", "bot": "assistant", "model": "assistant"}.get(role, role)


def needed(value: Any, row: int, what: str) -> Any:
    """A value a remedy cannot do without.

    Raises:
        DataError: it is None.
    """
    if value is None:
        raise DataError(f"row {row} has no {what}")
    return value


def shown(text: str, most: int = 80) -> str:
    """Text for an example: one line, cut in the middle."""
    return repr(text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}")
