"""Plackett-Luce of scores (2, 1, 0) ranked in this order: 0.720868."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.losses import LossTerms
from holdtrue.losses.plackett_luce import PlackettLuce
from holdtrue.reward.model import RewardOutput
from said import targets


def rank(scores: list[float], ratings: list[float], tree: list[int] | None = None) -> LossTerms:
    said = targets(len(scores), ratings=ratings, tree=tree)
    return PlackettLuce()(RewardOutput(rewards=torch.tensor(scores)), said)


def test_the_reference_value_comes_out() -> None:
    # log(e² + e + 1) - 2 = 0.407606, log(e + 1) - 1 = 0.313262, and 0 for the last
    found = rank([2.0, 1.0, 0.0], [3, 2, 1])
    assert found.terms.tolist() == pytest.approx([0.720868], abs=1e-6) and found.weights.tolist() == [1]


def test_equal_scores_make_all_orders_alike() -> None:
    assert rank([1.0] * 4, [4, 1, 3, 2]).terms.item() == pytest.approx(math.log(24), abs=1e-6)


def test_two_answers_are_bradley_terry() -> None:
    assert rank([0.5, 0.0], [1, 0]).terms.item() == pytest.approx(0.474077, abs=1e-6)


def test_answers_rated_alike_are_each_picked_from_all_rated_no_higher() -> None:
    # two best of score 2 and 1, one below of score 0: log(e² + e + 1) less 2, and less 1
    assert rank([2.0, 1.0, 0.0], [5, 5, 1]).terms.item() == pytest.approx(0.407606 + 1.407606, abs=1e-6)


def test_an_unrated_answer_is_as_if_it_was_not_there() -> None:
    assert rank([2.0, 7.0, 1.0, 0.0], [3, math.nan, 2, 1]).terms.item() == pytest.approx(0.720868, abs=1e-6)


def test_each_prompt_is_one_item_and_one_without_an_order_has_weight_zero() -> None:
    found = rank([2.0, 1.0, 0.5, 0.0, 3.0, 1.0], [3, 2, 1, 0, 4, 4], tree=[0, 0, 1, 1, 2, 2])
    assert found.terms.tolist() == pytest.approx([0.313262, 0.474077, 0.0], abs=1e-6)
    assert found.weights.tolist() == [1, 1, 0]
