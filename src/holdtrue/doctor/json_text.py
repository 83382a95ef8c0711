"""JSON files changed as little as can be: the text of other members stays as it was, to the byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_SPACE = re.compile(r"[ \t\r\n]*")


class Member(NamedTuple):
    """A member of an object's text: where its key begins, its value begins, and both end."""

    key: str
    start: int
    value: int
    end: int


def edited(text: str, changes: Mapping[str, Any]) -> str:
    """The text of a JSON object with other values for some keys; None takes a key away, new ones come last.

    Indentation, separators, line ends and escapes are those of the text.
    """
    members = list(_members(text))
    if not members:
        given = {key: value for key, value in changes.items() if value is not None}
        return json.dumps(given, indent=2, ensure_ascii=False) + "\n" * text.endswith("\n")
    first, last = members[0], members[-1]
    space = text[text.index("{") + 1 : first.start]
    colon = _colon(text, first)
    parts: list[str] = []
    for before, one in zip([None, *members], members, strict=False):
        if one.key in changes and changes[one.key] is None:
            continue
        parts += [text[before.end : one.start]] if parts and before else []
        parts += [text[one.start : one.value]]
        old = text[one.value : one.end]
        parts += [_dumped(changes[one.key], text, space, colon, old) if one.key in changes else old]
    between = text[first.end : members[1].start] if len(members) > 1 else "," + (space or colon[1:])
    known = {one.key for one in members}
    for key, value in changes.items():
        if key not in known and value is not None:
            parts += [between] if parts else []
            parts += [json.dumps(key), colon, _dumped(value, text, space, colon)]
    return text[: first.start] + "".join(parts) + text[last.end :]


def _members(text: str) -> Iterator[Member]:
    decode = json.JSONDecoder().raw_decode
    at = _after_space(text, text.index("{") + 1)
    while text[at] != "}":
        key, end = decode(text, at)
        value = _after_space(text, _after_space(text, end) + 1)
        _, behind = decode(text, value)
        yield Member(key, at, value, behind)
        at = _after_space(text, behind)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _colon(text: str, member: Member) -> str:
    _, end = json.JSONDecoder().raw_decode(text, member.start)
    return text[end : member.value]


def _dumped(value: Any, text: str, space: str, colon: str, old: str = "") -> str:
    """A value in the style of the text; in one line where the text or the old value is in one line."""
    ascii_only = text.isascii() and "\\u" in text
    line, newline, indent = space.rpartition("\n")
    if not newline or (old[:1] in ("[", "{") and len(old) > 2 and "\n" not in old):
        comma = ", " if colon.endswith(" ") else ","
        return json.dumps(value, ensure_ascii=ascii_only, separators=(comma, colon))
    dumped = json.dumps(value, indent=indent, ensure_ascii=ascii_only, separators=(",", colon))
    return dumped.replace("\n", line[-1:] + "\n" + indent if line.endswith("\r") else "\n" + indent)
