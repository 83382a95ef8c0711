"""Token trees: all answers to one prompt, the prompt once.

    [ prompt | answer 1 | answer 2 | ... | answer K ]

The prompt is the longest common prefix of the conversations' ids (each answer keeps at least one
token), so a tree holds exactly the sequences it was grown from. Comparisons point at its leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import isnan, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdtrue.records import Comparison, Group
from holdtrue.tokens.conversation import Encoded, Ids

Drop = Callable[[Group, str], None]
Unit = Literal["comparison", "answer", "prompt"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a loss learns from, and so what of a group makes up a tree.

    Attributes:
        unit: what its items are: comparisons, single answers, or all answers to a prompt together.
        target: what an answer must carry: ``ratings`` in at least one of ``columns``, ``accepted``, or a
            value of one of its ``steps``.
        columns: names of the ratings, in the order of the model's outputs.
    """

    unit: Unit = "comparison"
    target: Literal["comparisons", "ratings", "accepted", "steps"] = "comparisons"
    columns: tuple[str, ...] = ("rating",)


PAIRS = Lesson()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What raters said of an answer: ratings (K,), P(acceptable), and a value per step; NaN where nothing."""

    ratings: tuple[float, ...]
    accepted: float = nan
    steps: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt's ids, its answers' ids, and what raters said of them.

    ``first, second`` (B,) index the answers; ``label, weight, margin`` (B,) are float32, margin 0 where
    none was given. ``ratings`` (N, K) and ``accepted`` (N,) are float32, NaN where nothing was said.
    ``marks`` are the places in each sequence that are read besides its last token, empty where the encoder
    was not asked for any; ``steps`` (M,) float32 is what was said of all of them, where they end steps.
    ``key`` tells the trees of different prompts apart.
    ``orders`` is how often each comparison stands in the tree: twice where models are shown both orders.
    """

    prompt: Ids
    answers: tuple[Ids, ...]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    margin: NDArray[np.float32]
    ratings: NDArray[np.float32]
    accepted: NDArray[np.float32]
    marks: tuple[tuple[int, ...], ...] = ()
    steps: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    key: str = ""
    orders: int = 1

    def count(self, unit: Unit) -> int:
        """Items of a loss in this tree."""
        return {"comparison": len(self.first) // self.orders, "answer": len(self.answers), "prompt": 1}[unit]

    @property
    def shared(self) -> list[int]:
        """(B,) tokens the two answers of each comparison begin with in common."""
        if len(self.answers) == 2:  # the prompt is all they share
            return [0] * len(self.first)
        return [
            common_prefix_length([self.answers[i], self.answers[j]])
            for i, j in zip(self.first.tolist(), self.second.tolist(), strict=True)
        ]

    @property
    def tokens(self) -> int:
        """Tokens that are computed: the prompt once and every answer."""
        return len(self.prompt) + sum(map(len, self.answers))

    @property
    def real_tokens(self) -> int:
        """Tokens of the sequences written out in full."""
        return len(self.prompt) * len(self.answers) + sum(map(len, self.answers))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return len(self.prompt) + max(map(len, self.answers))


def grow(
    sequences: Sequence[Ids],
    comparisons: Sequence[Comparison] = (),
    verdicts: Sequence[Verdict] = (),
    marks: Sequence[tuple[int, ...]] = (),
    key: str = "",
) -> Tree:
    """A tree whose leaves are ``sequences``, in order. A single sequence is all answer, no prompt."""
    verdicts = verdicts or [Verdict(())] * len(sequences)
    prompt = common_prefix_length(sequences) if len(sequences) > 1 else 0
    return Tree(
        prompt=sequences[0][:prompt].copy(),  # views would keep every sequence in full
        answers=tuple(ids[prompt:].copy() for ids in sequences),
        first=np.array([c.first for c in comparisons], dtype=np.int64),
        second=np.array([c.second for c in comparisons], dtype=np.int64),
        label=np.array([c.label for c in comparisons], dtype=np.float32),
        weight=np.array([c.weight for c in comparisons], dtype=np.float32),
        margin=np.array([c.margin or 0.0 for c in comparisons], dtype=np.float32),
        ratings=np.array([v.ratings for v in verdicts], dtype=np.float32).reshape(len(sequences), -1),
        accepted=np.array([v.accepted for v in verdicts], dtype=np.float32),
        marks=tuple(marks),
        steps=np.array([value for v in verdicts for value in v.steps], dtype=np.float32),
        key=key,
    )


def common_prefix_length(sequences: Sequence[Ids]) -> int:
    """Tokens all sequences begin with, at most one less than the shortest."""
    length = min(map(len, sequences)) - 1
    first = sequences[0][:length]
    for ids in sequences[1:]:
        differs = first != ids[: len(first)]
        if differs.any():
            first = first[: int(differs.argmax())]
    return len(first)


def forest(
    groups: Iterable[tuple[Group, Encoded]],
    max_answers: int,
    dropped: Drop,
    cut: Counter[str],
    lesson: Lesson = PAIRS,
) -> list[list[Tree]]:
    """Trees of all that a loss can learn from, prompt by prompt; equal prompts are merged.

    Of comparisons equal answers are one leaf, and a prompt with more than ``max_answers`` distinct answers
    gets several trees, filled in order. Single answers are all leaves of their own, and those to learn
    from together lie in one tree whatever their number. ``dropped(group, reason)`` is called once for
    every item that cannot be used, and for every group without any; ``cut`` counts truncated answers.
    """
    prompts: dict[str, _Prompt] = {}
    for group, encoded in groups:
        prompt = prompts.setdefault(group.prompt_key, _Prompt(max_answers, group.prompt_key))
        if lesson.unit == "comparison":
            _add_comparisons(prompt, group, encoded, dropped, cut)
        else:
            _add_answers(prompt, group, encoded, lesson, dropped, cut)
    return [prompt.trees() for prompt in prompts.values() if prompt.open]


def _add_comparisons(
    prompt: _Prompt, group: Group, encoded: Encoded, dropped: Drop, cut: Counter[str]
) -> None:
    for side, tokens in enumerate(encoded.cut):
        if tokens and any(side in (c.first, c.second) for c in group.comparisons):
            cut["answers truncated"] += 1
    if not group.comparisons:
        dropped(group, "no comparison")
    for comparison in group.comparisons:
        first, second = encoded.ids[comparison.first], encoded.ids[comparison.second]
        if first is None or second is None:
            dropped(group, str(encoded.reasons[comparison.first if first is None else comparison.second]))
        elif np.array_equal(first, second):
            truncated = encoded.cut[comparison.first] or encoded.cut[comparison.second]
            dropped(group, "identical after truncation" if truncated else "identical sides")
        else:
            marks = [encoded.marks[k] for k in (comparison.first, comparison.second) if encoded.marks]
            prompt.add_comparison(first, second, comparison, marks)


def _add_answers(
    prompt: _Prompt, group: Group, encoded: Encoded, lesson: Lesson, dropped: Drop, cut: Counter[str]
) -> None:
    leaves: dict[int, _Leaf] = {}
    for k, ids in enumerate(encoded.ids):
        verdict = verdict_of(group, k, lesson.columns, encoded.steps[k] if encoded.steps else ())
        if ids is None:
            dropped(group, str(encoded.reasons[k]))
        elif lesson.target == "ratings" and all(map(isnan, verdict.ratings)):
            dropped(group, f"no {' or '.join(lesson.columns)}")
        elif lesson.target == "accepted" and isnan(verdict.accepted):
            dropped(group, "neither accepted nor refused")
        elif lesson.target == "steps" and all(map(isnan, verdict.steps)):
            given = (
                "no step was judged"
                if not group.answers[k].steps
                else "judged at other places than steps end"
            )
            dropped(group, given)
        else:
            leaves[k] = ids, verdict, encoded.marks[k : k + 1]
            if encoded.cut[k]:
                cut["answers truncated"] += 1
    if lesson.unit == "prompt" and not ordered(
        (ids.tobytes(), verdict.ratings) for ids, verdict, _ in leaves.values()
    ):
        if leaves:
            dropped(group, "fewer than two answers with different ratings")
        return
    prompt.add_answers(leaves, group.comparisons, together=lesson.unit == "prompt")


def ordered(answers: Iterable[tuple[Any, Any]]) -> bool:
    """Whether two different answers, each given with its ratings, are rated differently."""
    return any(a != b and x != y for (a, x), (b, y) in combinations(answers, 2))


def verdict_of(group: Group, k: int, columns: Sequence[str] = (), steps: tuple[float, ...] = ()) -> Verdict:
    """What was said of answer ``k``; being preferred counts as accepted where raters gave no label."""
    answer = group.answers[k]
    accepted = nan if answer.label is None else float(answer.label)
    if answer.label is None:
        sides = {c.preferred.index(k) for c in group.comparisons if c.preferred and k in c.preferred}
        accepted = 1.0 - sides.pop() if len(sides) == 1 else nan
    return Verdict(tuple(answer.ratings.get(name, nan) for name in columns), accepted, steps)


_Leaf = tuple[Ids, Verdict, tuple[tuple[int, ...], ...]]


@dataclass(slots=True)
class _Open:
    """A tree that can still get leaves."""

    sequences: list[Ids] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    marks: list[tuple[int, ...]] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)


class _Prompt:
    """What belongs to one prompt, dealt out over trees of at most ``max_answers`` leaves."""

    def __init__(self, max_answers: int, key: str) -> None:
        self.max_answers = max_answers
        self.key = key
        self.open: list[_Open] = []
        self.holders: dict[bytes, list[int]] = {}  # trees an answer is a leaf of

    def add_comparison(
        self, first: Ids, second: Ids, comparison: Comparison, marks: Sequence[tuple[int, ...]]
    ) -> None:
        keys = first.tobytes(), second.tobytes()
        tree = self.open[self._place(keys)]
        for side, (key, ids) in enumerate(zip(keys, (first, second), strict=True)):
            if key not in tree.places:
                tree.places[key] = len(tree.sequences)
                tree.sequences.append(ids)
                tree.marks += marks[side : side + 1]
        tree.comparisons.append(replace(comparison, first=tree.places[keys[0]], second=tree.places[keys[1]]))

    def _place(self, keys: tuple[bytes, bytes]) -> int:
        """The tree that needs fewest new leaves for these answers and has room for them."""
        candidates = {tree for key in keys for tree in self.holders.get(key, ())}
        candidates |= {len(self.open) - 1} if self.open else set()
        missing = {tree: sum(key not in self.open[tree].places for key in keys) for tree in candidates}
        room = [t for t in candidates if len(self.open[t].sequences) + missing[t] <= self.max_answers]
        place = min(room, key=lambda tree: (missing[tree], tree), default=len(self.open))
        if place == len(self.open):
            self.open.append(_Open())
        for key in keys:
            if key not in self.open[place].places:
                self.holders.setdefault(key, []).append(place)
        return place

    def add_answers(
        self,
        leaves: dict[int, _Leaf],
        comparisons: Sequence[Comparison],
        *,
        together: bool,
    ) -> None:
        """Leaves by their number in the group, with those comparisons whose two sides share a tree."""
        places: dict[int, tuple[_Open, int]] = {}
        for k, (ids, verdict, marks) in leaves.items():
            full = not self.open or len(self.open[-1].sequences) >= self.max_answers
            if (not places) if together else full:
                self.open.append(_Open())
            tree = self.open[-1]
            places[k] = tree, len(tree.sequences)
            tree.sequences.append(ids)
            tree.verdicts.append(verdict)
            tree.marks += marks
        for comparison in comparisons:
            if comparison.first in places and comparison.second in places:
                (tree, first), (other, second) = places[comparison.first], places[comparison.second]
                if tree is other:
                    tree.comparisons.append(replace(comparison, first=first, second=second))

    def trees(self) -> list[Tree]:
        return [grow(t.sequences, t.comparisons, t.verdicts, t.marks, self.key) for t in self.open]
