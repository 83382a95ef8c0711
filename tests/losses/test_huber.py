"""Huber's loss on both sides of δ."""

from __future__ import annotations

import pytest
import torch

from holdtrue.losses.huber import Huber
from holdtrue.reward.model import RewardOutput
from said import targets

SAID = targets(4, ratings=[0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (1.0, [0.125, 0.5, 1.5, 2.5]),  # 0.5²/2; 1²/2; 2 - 0.5; 3 - 0.5
        (2.0, [0.125, 0.5, 2.0, 4.0]),  # ...; 2²/2; 2·(3 - 1)
    ],
)
def test_it_is_squared_up_to_delta_and_linear_beyond(delta: float, expected: list[float]) -> None:
    rewards = torch.tensor([0.5, 1.0, -2.0, 3.0])
    assert Huber(delta=delta)(RewardOutput(rewards=rewards), SAID).terms.tolist() == pytest.approx(expected)


def test_an_outlier_pulls_with_delta_at_most() -> None:
    rewards = torch.tensor([0.5, 1.0, -2.0, 300.0], requires_grad=True)
    Huber()(RewardOutput(rewards=rewards), SAID).terms.sum().backward()
    assert rewards.grad.tolist() == pytest.approx([0.5, 1.0, -1.0, 1.0])
