"""Where the steps of an answer end, and what was said of them.

A step is a part of the text between two separators that holds more than white space; it ends with its last
visible character. Where the steps are is a matter of the text alone, so labels change no reward.
"""

from __future__ import annotations

from math import nan

from holdtrue.records import Answer


def step_ends(text: str, separator: str) -> list[int]:
    """Characters up to the end (exclusive) of each step."""
    ends = []
    at = 0
    for part in text.split(separator):
        if part.strip():
            ends.append(at + len(part.rstrip()))
        at += len(part) + len(separator)
    return ends


def of(answer: Answer, separator: str) -> tuple[list[int], list[float]]:
    """Ends of an answer's steps, and the value each was given, NaN where none was."""
    text = answer.text
    ends = step_ends(text, separator)
    said = {len(text[:end].rstrip()): value for end, value in answer.steps}
    return ends, [said.get(end, nan) for end in ends]


def misplaced(answer: Answer, separator: str) -> int:
    """Values given to places that are not the end of a step."""
    _, values = of(answer, separator)
    return len(answer.steps) - sum(value == value for value in values)
