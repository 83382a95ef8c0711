"""Where labels come from, and how they are asked for. A labeller is any function of this kind:

    groups of two answers each -> for each group a Comparison of them, or None where nothing is known

A file of labels and a world whose true reward is known are labellers too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from holdtrue.errors import DataError
from holdtrue.records import Comparison, Group, flatten
from holdtrue.refresh.context import Labeller
from holdtrue.rundir import append_jsonl, disk_errors, read_jsonl


@dataclass(frozen=True)
class Pair:
    """Two answers of a group: its number and theirs."""

    group: int
    first: int
    second: int


def pairs_of(groups: Sequence[Group]) -> list[Pair]:
    """All pairs of different answers to one prompt."""
    return [
        Pair(number, i, j)
        for number, group in enumerate(groups)
        for i, j in combinations(range(len(group.answers)), 2)
        if group.answers[i].text != group.answers[j].text
    ]


def ask(labeller: Labeller, groups: Sequence[Group], pairs: Sequence[Pair]) -> list[Group | None]:
    """Each pair as a group with the labeller's comparison; None where it gave none.

    Raises:
        DataError: the labeller gave something else than one comparison of the two answers for each pair.
    """
    asked = [
        replace(
            groups[p.group], answers=(groups[p.group].answers[p.first], groups[p.group].answers[p.second])
        )
        for p in pairs
    ]
    asked = [replace(group, comparisons=()) for group in asked]
    said = list(labeller(asked))
    check(said, len(asked))
    return [
        None if c is None else replace(group, comparisons=(c,)) for group, c in zip(asked, said, strict=True)
    ]


def check(said: Sequence[Comparison | None], asked: int) -> None:
    """Refuse what no labeller may say.

    Raises:
        DataError: not a comparison of both answers, or None, for each pair.
    """
    if len(said) != asked:
        raise DataError(f"the labeller gave {len(said)} labels for {asked} pairs")
    for comparison in said:
        if comparison is None:
            continue
        if not isinstance(comparison, Comparison) or {comparison.first, comparison.second} != {0, 1}:
            raise DataError(f"a label compares answers 0 and 1 of its group, got {comparison!r}")
        if not 0 <= comparison.label <= 1:
            raise DataError(f"a label is a probability, got {comparison.label}")


def remembered(labeller: Labeller, file: Path) -> Labeller:
    """The labeller, asked for each pair once: what it said is kept in a JSONL file and read from there.

    So labels that were paid for outlive an interruption.
    """
    known = {_key(row): row["comparison"] for row in (read_jsonl(file) if file.exists() else ())}

    def label(asked: Sequence[Group]) -> list[Comparison | None]:
        rows = [{"prompt": g.prompt_key, "answers": [answer.text for answer in g.answers]} for g in asked]
        new = [i for i, row in enumerate(rows) if _key(row) not in known]
        said = list(labeller([asked[i] for i in new])) if new else []
        check(said, len(new))
        for i, comparison in zip(new, said, strict=True):
            known[_key(rows[i])] = None if comparison is None else asdict(comparison)
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(file, [rows[i] | {"comparison": known[_key(rows[i])]} for i in new])
        found = [known[_key(row)] for row in rows]
        return [None if values is None else Comparison(**values) for values in found]

    return label


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["prompt"], *row["answers"])


def recorded(groups: Sequence[Group]) -> Labeller:
    """Labels that were written down: comparisons in groups, as any data file is read into.

    A pair is found by its prompt and the texts of its answers, in either order.
    """
    known: dict[tuple[str, str, str], Comparison] = {}
    for group in groups:
        for c in group.comparisons:
            first, second = group.answers[c.first].text, group.answers[c.second].text
            known[group.prompt_key, first, second] = replace(c, first=0, second=1)
            known[group.prompt_key, second, first] = replace(c, first=1, second=0)

    def label(asked: Sequence[Group]) -> list[Comparison | None]:
        keys = ((group.prompt_key, group.answers[0].text, group.answers[1].text) for group in asked)
        return [known.get(key) for key in keys]

    return label


def by_reward(reward: Callable[[str, str], float], scale: float = math.inf, seed: int = 0) -> Labeller:
    """A rater who knows the true reward of (prompt, answer) and prefers the first with probability σ(β·gap).

    ``scale`` is β: infinite never errs, and equal rewards are a tie. A pair gets the same label whenever and
    in whichever order it is asked for, so that methods can be compared pair by pair.
    """

    def label(asked: Sequence[Group]) -> list[Comparison | None]:
        return [judge(group) for group in asked]

    def judge(group: Group) -> Comparison:
        prompt, texts = flatten(group.prompt), [answer.text for answer in group.answers]
        gap = reward(prompt, texts[0]) - reward(prompt, texts[1])
        if not gap:
            return Comparison(0, 1, 0.5)
        key = "\0".join([str(seed), prompt, *sorted(texts)])
        drawn = Random(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()).random()
        wrong = 1 / (1 + math.exp(min(scale * abs(gap), 700.0)))
        better = int(gap < 0) if drawn >= wrong else int(gap > 0)
        return Comparison(better, 1 - better)

    return label


def compared(labeller: Labeller, groups: Sequence[Group]) -> list[Group]:
    """The groups with every comparison of two answers that the labeller gives, in place of their own."""
    pairs = pairs_of(groups)
    found: list[list[Comparison]] = [[] for _ in groups]
    for pair, said in zip(pairs, ask(labeller, groups, pairs), strict=True):
        if said is not None:
            places, c = (pair.first, pair.second), said.comparisons[0]
            found[pair.group].append(replace(c, first=places[c.first], second=places[c.second]))
    return [replace(group, comparisons=tuple(own)) for group, own in zip(groups, found, strict=True)]
