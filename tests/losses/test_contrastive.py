"""Bradley-Terry beside a contrast of the pairs' differences of hidden states."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from holdtrue.losses import LossTerms
from holdtrue.losses.contrastive import Contrastive
from holdtrue.reward.model import RewardOutput
from said import targets

TAU = 0.5


def contrast(hidden: list[list[float]], **said: Any) -> LossTerms:
    """Terms of answers (0, 1), (2, 3), ... with equal rewards; the regulariser alone but for log 2."""
    count = len(hidden)
    batch = {"tree": [i // 2 for i in range(count)]} | said
    out = RewardOutput(rewards=torch.zeros(count), hidden=torch.tensor(hidden))
    pairs = list(range(0, count, 2)), list(range(1, count, 2))
    return Contrastive(weight=1.0, temperature=TAU)(out, targets(count, *pairs, **batch))


def test_orthogonal_differences_are_the_loss_of_hand() -> None:
    # differences (1, 0) and (0, 2): cosine 0. Against exp(1/τ) stand exp(-1/τ) and twice exp(0):
    # log(e² + e⁻² + 2) - 2 = 0.253856
    found = contrast([[1.0, 1.0], [0.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    assert (found.terms - math.log(2)).tolist() == pytest.approx([0.253856] * 2, abs=1e-5)


def test_equal_or_opposite_differences_cost_most() -> None:
    # cosine ±1: log(2 (e² + e⁻²)) - 2 = log 2 + log(1 + e⁻⁴) = 0.711297
    for second in ([3.0, 0.0], [-3.0, 0.0]):
        found = contrast([[1.0, 1.0], [0.0, 1.0], second, [0.0, 0.0]])
        assert (found.terms - math.log(2)).tolist() == pytest.approx([0.711297] * 2, abs=1e-5)


def test_comparisons_of_one_prompt_are_not_set_against_each_other() -> None:
    found = contrast([[1.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.0]], tree=[0, 0, 0, 0])
    # only the mirror is left: log(1 + e⁻⁴)
    assert (found.terms - math.log(2)).tolist() == pytest.approx([0.018150] * 2, abs=1e-5)


def test_comparisons_of_weight_zero_are_not_contrasted_with() -> None:
    found = contrast([[1.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.0]], weight=[1.0, 0.0])
    assert found.terms[0].item() - math.log(2) == pytest.approx(0.018150, abs=1e-5)


def test_the_gradient_turns_like_differences_apart() -> None:
    hidden = torch.tensor([[1.0, 0.1], [0.0, 0.0], [1.0, -0.1], [0.0, 0.0]], requires_grad=True)
    said = targets(4, [0, 2], [1, 3], tree=[0, 0, 1, 1])
    loss = Contrastive(weight=1.0, temperature=TAU)
    loss(RewardOutput(rewards=torch.zeros(4), hidden=hidden), said).terms.sum().backward()
    assert hidden.grad[0, 1] < 0 < hidden.grad[2, 1]  # descending, the first turns up and the second down


def test_without_its_weight_it_is_bradley_terry() -> None:
    out = RewardOutput(rewards=torch.tensor([1.2, 0.3, 0.7, 0.9]), hidden=torch.randn(4, 3))
    found = Contrastive(weight=0.0)(out, targets(4, [0, 1], [2, 3]))
    assert found.terms.tolist() == pytest.approx([0.474077, 1.037488], abs=1e-6)
