"""Which answers of a policy optimisation a reader is shown, out of all that ``rollouts.jsonl`` holds.

The file is gone through once, and only where each answer stands is kept; those that are chosen are read
again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from holdtrue.records import Message, Messages, Rollout

EXAMINED = 1000
"""Answers a detector looks at, in at most :data:`STEPS` steps: a doctor reads some hundred a second."""
STEPS = 20


@dataclass(frozen=True, slots=True)
class Place:
    """An answer: its line in the file and in bytes from its start, its step, prompt as JSON, and reward."""

    line: int
    offset: int
    step: int
    prompt: str
    reward: float | None


def find(file: Path) -> tuple[list[Place], list[int]]:
    """The place of every answer, in the order of the file, and the lines that hold none."""
    places, broken, prompts = [], list[int](), dict[str, str]()
    for number, offset, row in objects(file):
        if row is None or not _is_answer(row):
            broken.append(number)
            continue
        prompt, reward = json.dumps(row["prompt"]), row.get("reward")
        known = reward is not None and isfinite(reward)
        prompt = prompts.setdefault(prompt, prompt)  # one copy of each
        places.append(Place(number, offset, row["step"], prompt, reward if known else None))
    return places, broken


def objects(file: Path) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """The number of each line, its place in bytes and its JSON object or None; nothing where there is no file
    yet. A last line without its newline is still being written."""
    if not file.is_file():
        return
    offset = 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                yield number, offset, _object(line)
            offset += len(line)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_answer(row: Mapping[str, Any]) -> bool:
    return (
        isinstance(row.get("step"), int)
        and isinstance(row.get("reward"), int | float | None)
        and all(_is_said(row.get(name)) for name in ("prompt", "answer"))
    )


def _is_said(value: Any) -> bool:
    """Whether it is text, or messages."""
    return isinstance(value, str) or (
        isinstance(value, list)
        and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in value)
    )


def read(file: Path, places: Iterable[Place]) -> list[Rollout]:
    """The answers at these places."""
    with open(file, "rb") as lines:
        rows = []
        for place in places:
            lines.seek(place.offset)
            rows.append(json.loads(lines.readline()))
    own = {field.name for field in fields(Rollout)}
    return [
        Rollout(**{name: value for name, value in row.items() if name in own} | _texts(row)) for row in rows
    ]


def sample(places: Sequence[Place]) -> list[Place]:
    """Whole steps, evenly spread from the first to the last; the first answers of one that has many."""
    steps = _by(places, lambda place: place.step)
    if not steps:
        return []
    size = median(map(len, steps.values()))
    count = min(len(steps), max(2, min(STEPS, int(EXAMINED // size))))
    numbers = sorted(steps)
    chosen = sorted({numbers[round(at)] for at in np.linspace(0, len(numbers) - 1, count)})
    return [place for step in chosen for place in steps[step][: EXAMINED // len(chosen)]]


def along(
    places: Sequence[Place], wanted: Mapping[str, int], most: int
) -> list[list[tuple[list[str], Place]]]:
    """For ``most`` prompts, answers to the prompt from the steps nearest to those wanted.

    Args:
        wanted: name -> step, in order. One answer may be nearest to several.

    Returns:
        For each prompt (names, the first answer of that step). Prompts that were answered in more of these
        steps come first, then those answered nearest to them, then those that came first.
    """
    ranked = []
    for own in _by(places, lambda place: place.prompt).values():
        steps = {place.step: place for place in reversed(own)}  # the first answer of a step is kept
        near = {name: min(steps, key=lambda step: (abs(step - at), step)) for name, at in wanted.items()}
        distance = sum(abs(near[name] - at) for name, at in wanted.items())
        names = _by(wanted, lambda name: near[name])  # noqa: B023  called at once
        ranked.append((-len(names), distance, [(names[step], steps[step]) for step in sorted(names)]))
    ranked.sort(key=lambda one: one[:2])
    return [shown for _, _, shown in ranked[:most]]


def highest(places: Iterable[Place], most: int) -> list[Place]:
    """The answers with the highest rewards, one to each prompt."""
    best: dict[str, Place] = {}
    for place in sorted(
        (one for one in places if one.reward is not None), key=lambda one: -(one.reward or 0.0)
    ):
        best.setdefault(place.prompt, place)
    return list(best.values())[:most]


def mean_rewards(places: Iterable[Place]) -> list[float]:
    """The mean reward of the answers to each prompt: answers to one prompt are no independent draws."""
    known = [place for place in places if place.reward is not None]
    groups = _by(known, lambda place: place.prompt).values()
    return [float(np.mean([place.reward for place in own])) for own in groups]


def _by(items: Iterable[Any], of: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = defaultdict(list)
    for one in items:
        found[of(one)].append(one)
    return dict(found)


def _texts(row: Mapping[str, Any]) -> dict[str, Messages | str]:
    return {name: _content(row[name]) for name in ("prompt", "answer")}


def _content(value: Any) -> Messages | str:
    if isinstance(value, str):
        return value
    return tuple(Message(turn["role"], turn["content"]) for turn in value)
