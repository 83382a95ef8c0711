"""Rao-Kupper: with θ = 2 and d = 0.5 the chances of win, loss and tie are 0.451863, 0.232697, 0.315441."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.losses.rao_kupper import RaoKupper
from holdtrue.reward.model import RewardOutput
from said import targets

GAP = RewardOutput(rewards=torch.tensor([0.5, 0.0]).double())


def terms(loss: RaoKupper | BradleyTerry, *labels: float) -> torch.Tensor:
    count = len(labels)
    return loss(GAP, targets(2, [0] * count, [1] * count, label=list(labels), dtype=torch.float64)).terms


def test_the_reference_values_come_out() -> None:
    chances = terms(RaoKupper(theta=2), 1.0, 0.0, 0.5).neg().exp().tolist()
    assert chances == pytest.approx([0.451863, 0.232697, 0.315441], abs=1e-6)
    assert sum(chances) == pytest.approx(1)


def test_a_share_of_raters_weighs_win_and_loss() -> None:
    expected = -0.8 * math.log(0.451863) - 0.2 * math.log(0.232697)
    assert terms(RaoKupper(theta=2), 0.8).item() == pytest.approx(expected, abs=1e-5)


def test_without_ties_it_becomes_bradley_terry() -> None:
    found = terms(RaoKupper(theta=1 + 1e-9), 1.0, 0.0)
    assert found.tolist() == pytest.approx(terms(BradleyTerry(), 1.0, 0.0).tolist(), abs=1e-8)


def test_a_tie_pulls_together() -> None:
    rewards = torch.tensor([0.5, 0.0], requires_grad=True)
    RaoKupper()(RewardOutput(rewards=rewards), targets(2, [0], [1], label=0.5)).terms.sum().backward()
    # -d log P(tie) / d gap = P(loss) - P(win) with the sign turned: 0.451863 - 0.232697
    assert rewards.grad.tolist() == pytest.approx([0.219166, -0.219166], abs=1e-5)
