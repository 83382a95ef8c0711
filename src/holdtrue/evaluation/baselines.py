"""What rules without any model reach on the same comparisons, and by how much the model beats them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from holdtrue.evaluation.accuracy import interval, score
from holdtrue.evaluation.bag_of_words import BagOfWords
from holdtrue.evaluation.bootstrap import interval_by_prompt
from holdtrue.evaluation.pairs import Floats, Pairs
from holdtrue.records import Group


def measure(
    pairs: Pairs, groups: Sequence[Group], bag_of_words: BagOfWords | str, confidence: float
) -> dict[str, dict[str, Any]]:
    """Accuracy of each baseline on the decided comparisons, like the model's a mean of 1, 0.5 and 0.

    ``longer_answer`` and ``shorter_answer`` prefer by characters, ``bag_of_words`` by a sum of word
    weights fitted on the training pairs; its ``reason`` says why there is none. ``advantage_interval``
    is that of the model's accuracy minus the baseline's (paired, bootstrap by prompt).
    """
    bag: dict[str, Any] = {"pairs": None, "of": None, "reason": bag_of_words}
    words = np.zeros(0)
    if isinstance(bag_of_words, BagOfWords) and not bag_of_words.pairs:
        bag["reason"] = "there were no training pairs to fit it on"
    elif isinstance(bag_of_words, BagOfWords):
        bag = {"pairs": bag_of_words.pairs, "of": bag_of_words.of, "reason": None}
        words = _gaps(pairs, groups, bag_of_words)
    return {
        "longer_answer": _against(pairs, pairs.length_gap, confidence),
        "shorter_answer": _against(pairs, -pairs.length_gap, confidence),
        "bag_of_words": _against(pairs, words, confidence) | bag,
    }


def _against(pairs: Pairs, gap: Floats, confidence: float) -> dict[str, Any]:
    if not len(gap):
        return dict.fromkeys(("accuracy", "interval", "advantage_interval"))
    theirs = score(gap)
    return {
        "accuracy": float(theirs.mean()),
        "interval": list(interval(theirs, pairs.prompt, confidence)[:2]),
        "advantage_interval": interval_by_prompt(score(pairs.gap) - theirs, pairs.prompt, confidence),
    }


def _gaps(pairs: Pairs, groups: Sequence[Group], bag: BagOfWords) -> Floats:
    rewards: dict[tuple[int, int], float] = {}

    def reward(group: int, answer: int) -> float:
        if (group, answer) not in rewards:
            rewards[group, answer] = bag.reward(groups[group].answers[answer].text)
        return rewards[group, answer]

    places = zip(pairs.group.tolist(), pairs.preferred.tolist(), pairs.other.tolist(), strict=True)
    return np.array([reward(g, i) - reward(g, j) for g, i, j in places], dtype=np.float64)
