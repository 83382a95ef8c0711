"""Token trees: all answers to one prompt, the prompt once.

    [ prompt | answer 1 | answer 2 | ... | answer K ]

The prompt is the longest common prefix of the conversations' ids (each answer keeps at least one
token), so a tree holds exactly the sequences it was grown from. Comparisons point at its leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from holdtrue.records import Comparison, Group
from holdtrue.tokens.conversation import Encoded, Ids

Drop = Callable[[Group, str], None]


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt's ids, its answers' ids, and comparisons between the answers.

    ``first, second`` (B,) index the answers; ``label, weight, margin`` (B,) are float32, margin 0 where
    none was given.
    """

    prompt: Ids
    answers: tuple[Ids, ...]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    margin: NDArray[np.float32]

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


def grow(sequences: Sequence[Ids], comparisons: Sequence[Comparison] = ()) -> Tree:
    """A tree whose leaves are ``sequences``, in order. A single sequence is all answer, no prompt."""
    prompt = common_prefix_length(sequences) if len(sequences) > 1 else 0
    return Tree(
        prompt=sequences[0][:prompt].copy(),  # views would keep every sequence in full
        answers=tuple(ids[prompt:].copy() for ids in sequences),
        first=np.array([c.first for c in comparisons], dtype=np.int64),
        second=np.array([c.second for c in comparisons], dtype=np.int64),
        label=np.array([c.label for c in comparisons], dtype=np.float32),
        weight=np.array([c.weight for c in comparisons], dtype=np.float32),
        margin=np.array([c.margin or 0.0 for c in comparisons], dtype=np.float32),
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
    groups: Iterable[tuple[Group, Encoded]], max_answers: int, dropped: Drop, cut: Counter[str]
) -> list[list[Tree]]:
    """Trees of all usable comparisons, prompt by prompt: equal prompts are merged, equal answers one leaf.

    A prompt with more than ``max_answers`` distinct answers gets several trees, filled with its
    comparisons in order. ``dropped(group, reason)`` is called once for every comparison that cannot be
    used (an answer that does not fit, sides that are identical as tokens) and every group without any;
    ``cut`` counts truncated answers.
    """
    prompts: dict[str, _Prompt] = {}
    for group, encoded in groups:
        prompt = prompts.setdefault(group.prompt_key, _Prompt(max_answers))
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
                prompt.add(first, second, comparison)
    return [prompt.trees() for prompt in prompts.values() if prompt.open]


class _Prompt:
    """Comparisons of one prompt, dealt out over trees of at most ``max_answers`` leaves."""

    def __init__(self, max_answers: int) -> None:
        self.max_answers = max_answers
        self.open: list[tuple[dict[bytes, int], list[Ids], list[Comparison]]] = []
        self.holders: dict[bytes, list[int]] = {}  # trees an answer is a leaf of

    def add(self, first: Ids, second: Ids, comparison: Comparison) -> None:
        keys = first.tobytes(), second.tobytes()
        leaves, sequences, comparisons = self.open[self._place(keys)]
        for key, ids in zip(keys, (first, second), strict=True):
            if key not in leaves:
                leaves[key] = len(sequences)
                sequences.append(ids)
        comparisons.append(replace(comparison, first=leaves[keys[0]], second=leaves[keys[1]]))

    def _place(self, keys: tuple[bytes, bytes]) -> int:
        """The tree that needs fewest new leaves for these answers and has room for them."""
        candidates = {tree for key in keys for tree in self.holders.get(key, ())}
        candidates |= {len(self.open) - 1} if self.open else set()
        missing = {tree: sum(key not in self.open[tree][0] for key in keys) for tree in candidates}
        room = [tree for tree in candidates if len(self.open[tree][1]) + missing[tree] <= self.max_answers]
        place = min(room, key=lambda tree: (missing[tree], tree), default=len(self.open))
        if place == len(self.open):
            self.open.append(({}, [], []))
        for key in keys:
            if key not in self.open[place][0]:
                self.holders.setdefault(key, []).append(place)
        return place

    def trees(self) -> list[Tree]:
        return [grow(sequences, comparisons) for _, sequences, comparisons in self.open]
