"""Root mean squared error of a whole step: predictions (0.8, 0.3) of ratings (1, 0)."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.losses import LossTerms
from holdtrue.losses.rmse import Rmse
from holdtrue.reward.model import RewardOutput
from said import targets


def rmse(rewards: torch.Tensor, ratings: list[float], eps: float = 1e-4) -> LossTerms:
    return Rmse(eps=eps)(RewardOutput(rewards=rewards), targets(len(ratings), ratings=ratings))


def test_the_reference_value_comes_out_but_for_eps() -> None:
    found = rmse(torch.tensor([0.8, 0.3]), [1.0, 0.0], eps=1e-9)
    assert found.terms.item() == pytest.approx(0.254951, abs=1e-6)  # √0.065
    assert found.weights.item() == 2
    # √(0.065 + 0.0001²) - 0.0001
    assert rmse(torch.tensor([0.8, 0.3]), [1.0, 0.0]).terms.item() == pytest.approx(0.254851, abs=1e-6)


def test_the_gradient_is_that_of_the_squares_by_twice_the_root() -> None:
    rewards = torch.tensor([0.8, 0.3], requires_grad=True)
    rmse(rewards, [1.0, 0.0], eps=1e-9).terms.sum().backward()
    # d MSE / d r = (-0.2, 0.3), by 2 · 0.254951
    assert rewards.grad.tolist() == pytest.approx([-0.392232, 0.588348], abs=1e-5)


def test_ratings_that_are_met_cost_nothing_and_give_no_gradient() -> None:
    rewards = torch.tensor([1.0, 0.0], requires_grad=True)
    found = rmse(rewards, [1.0, 0.0]).terms
    found.sum().backward()
    assert found.item() == pytest.approx(0, abs=1e-9) and rewards.grad.tolist() == [0, 0]


def test_answers_without_a_rating_are_not_in_the_mean() -> None:
    found = rmse(torch.tensor([0.8, 9.0, 0.3]), [1.0, math.nan, 0.0], eps=1e-9)
    assert found.terms.item() == pytest.approx(0.254951, abs=1e-6) and found.weights.item() == 2
