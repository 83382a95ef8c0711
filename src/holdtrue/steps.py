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


def judgements(answer: Answer) -> dict[int, float]:
    """Values given to steps, by the last visible character of each."""
    return {len(answer.text[:end].rstrip()): value for end, value in answer.steps}


def of(answer: Answer, separator: str) -> tuple[list[int], list[float]]:
    """Ends of an answer's steps, and the value each was given, NaN where none was."""
    ends, said = step_ends(answer.text, separator), judgements(answer)
    return ends, [said.get(end, nan) for end in ends]
