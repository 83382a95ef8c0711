"""All pairs of scores (2, 1, 0) ranked in this order: 0.251150."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.losses import LossTerms
from holdtrue.losses.all_pairs import AllPairs
from holdtrue.reward.model import RewardOutput
from said import targets


def rank(scores: list[float], ratings: list[float], tree: list[int] | None = None) -> LossTerms:
    said = targets(len(scores), ratings=ratings, tree=tree)
    return AllPairs()(RewardOutput(rewards=torch.tensor(scores)), said)


def test_the_reference_value_comes_out() -> None:
    # gaps 1, 1 and 2: (0.313262 + 0.313262 + 0.126928) / 3
    found = rank([2.0, 1.0, 0.0], [3, 2, 1])
    assert found.terms.tolist() == pytest.approx([0.251150], abs=1e-6) and found.weights.tolist() == [1]


def test_pairs_rated_alike_or_not_at_all_are_left_out() -> None:
    # of (2, 1, 0, 9) rated (5, 5, 1, nothing) the pairs with gaps 2 and 1 are left
    found = rank([2.0, 1.0, 0.0, 9.0], [5, 5, 1, math.nan])
    assert found.terms.item() == pytest.approx((0.126928 + 0.313262) / 2, abs=1e-6)


def test_each_prompt_counts_once_however_many_answers_it_has() -> None:
    found = rank([2.0, 1.0, 0.0, 0.5, 0.0, 1.0, 2.0], [3, 2, 1, 1, 0, 4, 4], tree=[0, 0, 0, 1, 1, 2, 2])
    assert found.terms.tolist() == pytest.approx([0.251150, 0.474077, 0.0], abs=1e-6)
    assert found.weights.tolist() == [1, 1, 0]  # no pair of the last is rated differently
