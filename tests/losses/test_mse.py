"""Mean squared error: predictions (0.8, 0.3) of ratings (1, 0)."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.losses.mse import Mse
from holdtrue.reward.model import RewardOutput
from said import targets


def test_the_reference_value_comes_out() -> None:
    found = Mse()(RewardOutput(rewards=torch.tensor([0.8, 0.3])), targets(2, ratings=[1.0, 0.0]))
    assert found.terms.tolist() == pytest.approx([0.04, 0.09])
    assert ((found.terms * found.weights).sum() / found.weights.sum()).item() == pytest.approx(0.065)


def test_an_answer_without_a_rating_does_not_count_in_the_mean() -> None:
    rewards = torch.tensor([0.8, 5.0, 0.3])
    found = Mse()(RewardOutput(rewards=rewards), targets(3, ratings=[1.0, math.nan, 0.0]))
    assert found.weights.tolist() == [1, 0, 1]
    assert (found.terms * found.weights).sum().item() == pytest.approx(0.13)
