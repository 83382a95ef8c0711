from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from holdtrue.data.transforms.pseudo_label import PseudoLabel
from holdtrue.errors import DataError
from holdtrue.records import Answer, Comparison, Group, Source

Pair = Callable[..., Group]


def scored(rewards: Any, count: int = 3) -> Group:
    answers = tuple(Answer(f"a{i}") for i in range(count))
    return Group("p", answers, meta={"rewards": rewards, "topic": "t"}, source=Source("s.jsonl", 7))


def test_pairs_are_made_where_the_rewards_are_clearly_apart() -> None:
    # sigmoid(1) = 0.73, sigmoid(2) = 0.88, sigmoid(3) = 0.95
    (group,), counts = PseudoLabel()([scored([1.0, 3.0, 0.0])])
    assert group.comparisons == (Comparison(1, 0), Comparison(1, 2))
    assert group.meta == {"topic": "t"}
    assert counts["pairs made"] == 2 and counts["pairs below the threshold"] == 1


def test_the_threshold_is_reached_at_the_logit_and_temperature_stretches_it() -> None:
    gap = math.log(4)  # sigmoid(log 4) = 4/5
    assert len(PseudoLabel()([scored([gap, 0.0], 2)])[0]) == 1
    assert len(PseudoLabel(temperature=3)([scored([3 * gap, 0.0], 2)])[0]) == 1
    with pytest.raises(DataError, match=r"no pair reaches the threshold 0\.8 at temperature 3\.0"):
        PseudoLabel(temperature=3)([scored([gap, 0.0], 2)])


def test_equal_rewards_make_no_pair_at_any_threshold() -> None:
    (group,), _ = PseudoLabel(threshold=0.5)([scored([1.0, 1.0, 0.9])])
    assert group.comparisons == (Comparison(0, 2), Comparison(1, 2))


def test_a_model_that_disagrees_replaces_the_label(pair: Pair) -> None:
    group = replace(pair("p"), meta={"rewards": [-2.0, 2.0]})
    (relabelled,), counts = PseudoLabel()([group])
    assert relabelled.comparisons == (Comparison(1, 0),)
    assert counts["comparisons replaced"] == 1


def test_answers_without_a_reward_are_counted_and_rows_without_a_pair_left_out() -> None:
    groups, counts = PseudoLabel()([scored([None, 9.0, 0.0]), scored(None), scored([0.0, 0.0, 0.0])])
    assert [group.comparisons for group in groups] == [(Comparison(1, 2),)]
    assert counts["answers without a reward"] == 4
    assert counts["rows without a clear pair, left out"] == 2


@pytest.mark.parametrize(
    "rewards", [[1.0], [1.0, "2", 3.0], 1.0, [1.0, float("nan"), 0.0], [True, False, True]]
)
def test_rewards_that_do_not_fit_the_answers_are_an_error_with_their_place(rewards: Any) -> None:
    with pytest.raises(DataError, match=r"rewards at s\.jsonl:7 must be 3 numbers, one an answer, got"):
        PseudoLabel()([scored(rewards)])


def test_rows_that_were_never_scored_are_an_error_that_says_how_to(pair: Pair) -> None:
    with pytest.raises(DataError, match="which no row has: first holdtrue score"):
        PseudoLabel()([pair("p")])
