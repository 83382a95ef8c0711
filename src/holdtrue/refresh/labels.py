"""Where labels come from, and how they are asked for. A labeller is any function of this kind:

    groups of two answers each -> for each group a Comparison of them, or None where nothing is known

A file of labels and a world whose true reward is known are labellers too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random

from holdtrue.errors import DataError
from holdtrue.records import Comparison, Group, flatten
from holdtrue.refresh.context import Labeller


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
    if len(said) != len(asked):
        raise DataError(f"the labeller gave {len(said)} labels for {len(asked)} pairs")
    for comparison in said:
        if comparison is None:
            continue
        if not isinstance(comparison, Comparison) or {comparison.first, comparison.second} != {0, 1}:
            raise DataError(f"a label compares answers 0 and 1 of its group, got {comparison!r}")
        if not 0 <= comparison.label <= 1:
            raise DataError(f"a label is a probability, got {comparison.label}")
    return [
        None if c is None else replace(group, comparisons=(c,)) for group, c in zip(asked, said, strict=True)
    ]


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
