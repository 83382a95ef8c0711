"""Rows of a prompt and answers without ``chosen`` and ``rejected``: which layout each is of.

Several layouts share the columns ``prompt``, ``completion``, ``completions`` and ``messages`` and differ
in what is said of the answers; the order in which they are told apart is kept here, in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdtrue.data.fields import BadRow, Content, content, messages
from holdtrue.data.formats import ended, with_prompt

_VERDICTS = {"up", "down", "yes", "no", "good", "bad", "true", "false", "0", "1", "positive", "negative"}
"""Texts that are meant as a label, and that a reader must not take for metadata."""


def layout_of(row: Mapping[str, Any]) -> str | None:
    """Name of the layout of a row with these columns; None when it has not got them."""
    if "chosen" in row and "rejected" in row:
        return None
    if "messages" in row and ("rejected_response" in row or "rejected_messages" in row):
        return "ms_swift"
    if "prompt" in row and "completions" in row:
        if "pairwise" in row:
            return "fine_grained"
        if aspect_column(row):
            return "aspects"
        return "steps" if "labels" in row else "completions"
    one = "prompt" in row and "completion" in row
    if one and "errors" in row:
        return "fine_grained"
    if one or "messages" in row:
        if aspect_column(row):
            return "aspects"
        unpaired = "label" in row and (not isinstance(row["label"], str) or row["label"].lower() in _VERDICTS)
        return "unpaired" if unpaired else "completion"
    return None


def aspect_column(row: Mapping[str, Any]) -> str | None:
    """The column that holds an object of scores by aspect."""
    for name in ("labels", "ratings"):
        if isinstance(row.get(name), Mapping):
            return name
    return None


def one_answer(row: Mapping[str, Any], plain_text: str) -> tuple[Content, Content]:
    """Prompt and answer: those two columns, or a conversation in ``messages`` and its last turn."""
    if "completion" in row and "prompt" in row:
        prompt, (answer,) = with_prompt(row["prompt"], (content(row, "completion"),), plain_text)
        return prompt, answer
    if row["messages"] is None:
        raise BadRow("missing field", "messages is null")
    turns = messages(row["messages"], "messages")
    last = ended(turns[-1:])
    if not any(turn.content.strip() for turn in turns[:-1]):
        raise BadRow("empty prompt", "the answer is the only turn")
    return turns[:-1], last
