"""The pairwise hinge."""

from __future__ import annotations

import pytest
import torch

from holdtrue.losses.hinge import Hinge
from holdtrue.reward.model import RewardOutput
from said import targets


def test_nothing_is_asked_beyond_the_margin() -> None:
    rewards = torch.tensor([0.5, -0.6, 1.5, 0.0], requires_grad=True)  # each against the last
    found = Hinge()(RewardOutput(rewards=rewards), targets(4, [0, 1, 2], [3, 3, 3])).terms
    found.sum().backward()
    assert found.tolist() == pytest.approx([0.5, 1.6, 0.0])  # 1 - gap, not below 0
    assert rewards.grad.tolist() == [-1, -1, 0, 2]


def test_a_rows_margin_is_added_and_acts_for_whichever_side_is_preferred() -> None:
    rewards = torch.tensor([0.5, 0.0])
    said = targets(2, [0, 0, 0], [1, 1, 1], label=[1.0, 0.0, 0.5], margin=[0.25, 0.25, 0.0])
    found = Hinge(margin=0.75)(RewardOutput(rewards=rewards), said).terms
    assert found.tolist() == pytest.approx([0.5, 1.5, 0.75])  # 1 - 0.5; 1 + 0.5; (0.25 + 1.25) / 2
