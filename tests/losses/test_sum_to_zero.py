"""Bradley-Terry with a mean reward of zero: c = (1.2, 0.3), r = (0.7, 0.9)."""

from __future__ import annotations

import pytest
import torch

from holdtrue.losses.sum_to_zero import SumToZero
from holdtrue.reward.model import RewardOutput
from said import targets

REWARDS = torch.tensor([1.2, 0.3, 0.7, 0.9])
SAID = targets(4, [0, 1], [2, 3])


def test_the_squared_mean_is_added_to_every_term() -> None:
    found = SumToZero(zero=0.1)(RewardOutput(rewards=REWARDS), SAID)
    # bradley_terry's 0.474077 and 1.037488, and 0.1 · ((1.2 + 0.3 + 0.7 + 0.9) / 4)² = 0.060063
    assert found.terms.tolist() == pytest.approx([0.534140, 1.097550], abs=1e-6)


def test_all_rewards_are_moved_alike() -> None:
    rewards = REWARDS.clone().requires_grad_()
    found = SumToZero(zero=0.1)(RewardOutput(rewards=rewards), SAID).terms.mean()
    plain = SumToZero(zero=0.0)(RewardOutput(rewards=rewards), SAID).terms.mean()
    (gradient,) = torch.autograd.grad(found - plain, rewards)
    assert gradient.tolist() == pytest.approx([2 * 0.1 * 0.775 / 4] * 4)


def test_an_answer_nobody_compared_is_not_in_the_mean() -> None:
    more = torch.cat([REWARDS, torch.tensor([50.0])])
    found = SumToZero(zero=0.1)(RewardOutput(rewards=more), targets(5, [0, 1], [2, 3]))
    assert found.terms.tolist() == pytest.approx([0.534140, 1.097550], abs=1e-6)
