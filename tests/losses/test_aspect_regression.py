"""Several ratings per answer, some of them missing."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.losses.aspect_regression import AspectRegression
from holdtrue.reward.model import RewardOutput
from said import targets

LOGITS = [[0.8, 2.0], [0.3, -1.0]]


def test_each_rated_aspect_is_an_item_and_the_others_have_weight_zero() -> None:
    said = targets(2, ratings=[[1.0, math.nan], [0.0, 1.0]])
    found = AspectRegression()(RewardOutput(logits=torch.tensor(LOGITS)), said)
    assert found.terms.tolist() == pytest.approx([0.04, 0.0, 0.09, 4.0])
    assert found.weights.tolist() == [1, 0, 1, 1]


def test_an_aspect_without_a_rating_gets_no_gradient() -> None:
    logits = torch.tensor(LOGITS, requires_grad=True)
    found = AspectRegression()(RewardOutput(logits=logits), targets(2, ratings=[[1.0, math.nan], [0.0, 1.0]]))
    (found.terms * found.weights).sum().backward()
    assert logits.grad.tolist() == [pytest.approx([-0.4, 0.0]), pytest.approx([0.6, -4.0])]
