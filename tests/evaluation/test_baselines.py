"""Baselines beside the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from holdtrue.evaluation import evaluate
from holdtrue.evaluation.bag_of_words import BagOfWords, fit
from holdtrue.records import Answer, Comparison, Group
from holdtrue.settings import EvaluationSettings


def pair(n: int, preferred: str, other: str) -> Group:
    return Group(f"p{n}", (Answer(other), Answer(preferred)), (Comparison(1, 0),))


def baselines(groups: list[Group], rewards: list[list[float]], words: BagOfWords | str) -> dict[str, Any]:
    found = evaluate(groups, [np.array(row) for row in rewards], EvaluationSettings(), "data", {}, words)
    return {"whole": found} | found["baselines"]


def test_longer_and_shorter_are_complements_and_stand_beside_the_old_keys() -> None:
    groups = [pair(n, "aaa", "b") for n in range(3)] + [pair(9, "aa", "bb")]
    found = baselines(groups, [[0.0, 1.0]] * 4, "none")
    assert found["longer_answer"]["accuracy"] == 3.5 / 4
    assert found["shorter_answer"]["accuracy"] == 0.5 / 4
    assert found["whole"]["longer_answer_accuracy"] == 3.5 / 4
    assert found["whole"]["longer_answer_interval"] == found["longer_answer"]["interval"]


def test_the_bag_of_words_is_judged_on_the_same_comparisons() -> None:
    bag = fit([pair(n, "good", "evil") for n in range(5)])
    groups = [pair(n, "good", "evil") for n in range(15)] + [pair(n, "evil", "good") for n in range(15, 20)]
    found = baselines(groups, [[0.0, 1.0]] * 20, bag)["bag_of_words"]
    assert (found["accuracy"], found["pairs"], found["of"], found["reason"]) == (0.75, 5, 5, None)
    # The model is right on all 20: its lead is 1 - Binomial(20, 3/4) / 20, from 1/20 to 9/20.
    assert found["advantage_interval"] == pytest.approx([0.1, 0.45], abs=0.051)


def test_a_comparison_without_rewards_counts_for_no_baseline() -> None:
    bag = fit([pair(n, "good", "evil") for n in range(5)])
    groups = [pair(0, "good", "evil"), pair(1, "evil", "good ones")]
    found = baselines(groups, [[0.0, 1.0], [np.nan, 1.0]], bag)
    assert [found[name]["accuracy"] for name in ("longer_answer", "bag_of_words")] == [0.5, 1.0]


def test_why_there_is_no_bag_of_words_is_said() -> None:
    found = baselines([pair(0, "good", "evil")], [[0.0, 1.0]], "no run")["bag_of_words"]
    assert found == dict.fromkeys(("accuracy", "interval", "advantage_interval", "pairs", "of")) | {
        "reason": "no run"
    }


def test_a_bag_of_words_fitted_on_nothing_is_no_baseline() -> None:
    found = baselines([pair(0, "good", "evil")], [[0.0, 1.0]], fit([]))["bag_of_words"]
    assert found["accuracy"] is None and found["reason"] == "there were no training pairs to fit it on"
