"""Davidson: with ν = 1 and d = 0.5 the chances of win, loss and tie are 0.419229, 0.254275, 0.326496."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.losses.davidson import Davidson
from holdtrue.reward.model import RewardOutput
from said import targets

GAP = RewardOutput(rewards=torch.tensor([0.5, 0.0]).double())


def terms(loss: Davidson | BradleyTerry, *labels: float) -> torch.Tensor:
    count = len(labels)
    return loss(GAP, targets(2, [0] * count, [1] * count, label=list(labels), dtype=torch.float64)).terms


def test_the_reference_values_come_out() -> None:
    chances = terms(Davidson(nu=1), 1.0, 0.0, 0.5).neg().exp().tolist()
    assert chances == pytest.approx([0.419229, 0.254275, 0.326496], abs=1e-6)
    assert sum(chances) == pytest.approx(1)


def test_nu_is_how_likely_a_tie_between_equals_is_against_either_win() -> None:
    equal = RewardOutput(rewards=torch.zeros(2))
    found = Davidson(nu=2)(equal, targets(2, [0, 0], [1, 1], label=[1.0, 0.5])).terms
    assert found.tolist() == pytest.approx([math.log(4), math.log(2)])  # 1/4, 1/4 and 2/4


def test_a_share_of_raters_weighs_win_and_loss() -> None:
    expected = -0.8 * math.log(0.419229) - 0.2 * math.log(0.254275)
    assert terms(Davidson(), 0.8).item() == pytest.approx(expected, abs=1e-5)


def test_without_ties_it_becomes_bradley_terry() -> None:
    found = terms(Davidson(nu=1e-12), 1.0, 0.0)
    assert found.tolist() == pytest.approx(terms(BradleyTerry(), 1.0, 0.0).tolist(), abs=1e-9)
