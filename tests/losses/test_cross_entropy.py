"""Cross-entropy of two classes against numbers made by hand."""

from __future__ import annotations

import pytest
import torch

from holdtrue.losses.cross_entropy import CrossEntropy
from holdtrue.reward.model import RewardOutput
from said import targets

LOGITS = torch.tensor([[0.2, 1.4]])


def term(accepted: float) -> float:
    return CrossEntropy()(RewardOutput(logits=LOGITS), targets(1, accepted=[accepted])).terms.item()


def test_the_reference_value_comes_out() -> None:
    assert term(1.0) == pytest.approx(0.263282, abs=1e-6)  # log(1 + e^(0.2 - 1.4)), P(accepted) 0.768525


def test_a_refused_answer_costs_the_other_class() -> None:
    assert term(0.0) == pytest.approx(1.463282, abs=1e-6)  # the same + the gap of 1.2


def test_half_the_raters_cost_half_of_each() -> None:
    assert term(0.5) == pytest.approx((0.263282 + 1.463282) / 2, abs=1e-6)


def test_an_answer_without_a_label_has_weight_zero() -> None:
    found = CrossEntropy()(RewardOutput(logits=LOGITS.repeat(2, 1)), targets(2, accepted=[1.0, float("nan")]))
    assert found.weights.tolist() == [1.0, 0.0]
