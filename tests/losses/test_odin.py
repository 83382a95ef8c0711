"""ODIN: pairs ranked by both heads, length pushed from one into the other."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.losses import LossTerms
from holdtrue.losses.odin import Odin
from holdtrue.reward.model import RewardOutput
from said import targets

# four answers of 1 to 4 tokens; pairs (3, 0) and (2, 1)
SAID = {"first": [3, 2], "second": [0, 1], "length": [1, 2, 3, 4]}


def odin(quality: list[float], length: list[float], weight: float = 1.0) -> LossTerms:
    logits = torch.tensor([quality, length]).T
    return Odin(length=weight)(RewardOutput(logits=logits), targets(4, **SAID))  # type: ignore[arg-type]


def test_without_correlations_it_is_bradley_terry_of_the_sum_of_both_heads() -> None:
    # gaps (0.3 + 0.2) - 0 = 0.5 and (-0.4 - 0.2) - 0 = -0.6
    found = odin([0.0, 0.0, -0.4, 0.3], [0.0, 0.0, -0.2, 0.2], weight=0.0)
    assert found.terms.tolist() == pytest.approx([0.474077, 1.037488], abs=1e-6)


def test_length_in_the_length_head_pays_and_in_the_quality_head_costs() -> None:
    # lengths (1, 2, 3, 4) - 2.5 = (-1.5, -0.5, 0.5, 1.5). Of (1, -1, -1, 1) the correlation is 0;
    # of (0, 2, 4, 6) it is 1, of (3, 2, 1, 0) it is -1
    even, up, down = [1.0, -1.0, -1.0, 1.0], [0.0, 2.0, 4.0, 6.0], [3.0, 2.0, 1.0, 0.0]

    def correlations(quality: list[float], length: list[float]) -> float:
        with_, without = odin(quality, length).terms, odin(quality, length, 0.0).terms
        assert (with_ - without).std().item() == pytest.approx(0, abs=1e-6)  # the same in each term
        return (with_ - without).mean().item()

    assert correlations(even, up) == pytest.approx(-1, abs=1e-6)  # 0 - 1: as it should be
    assert correlations(up, even) == pytest.approx(1, abs=1e-6)
    assert correlations(down, down) == pytest.approx(2, abs=1e-6)  # |-1| - (-1)


def test_the_correlation_is_pearsons() -> None:
    # of lengths (1, 2, 3, 4) and (0, 1, 0, 2): 2.5 / √(5 · 2.75) = 0.674200
    found = odin([1.0, -1.0, -1.0, 1.0], [0.0, 1.0, 0.0, 2.0]).terms
    plain = odin([1.0, -1.0, -1.0, 1.0], [0.0, 1.0, 0.0, 2.0], 0.0).terms
    assert (found - plain).tolist() == pytest.approx([-2.5 / math.sqrt(13.75)] * 2, abs=1e-6)


def test_heads_or_lengths_that_do_not_vary_correlate_with_nothing() -> None:
    logits = torch.full((4, 2), 0.3, requires_grad=True)
    found = Odin()(RewardOutput(logits=logits), targets(4, **SAID)).terms  # type: ignore[arg-type]
    found.sum().backward()
    assert found.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-3)
    assert logits.grad.isfinite().all()


def test_an_answer_nobody_compared_is_not_correlated() -> None:
    logits = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, 0.0], [1.0, 2.0], [9.0, 9.0]])
    said = targets(5, [3, 2], [0, 1], length=[1, 2, 3, 4, 90])
    alone = odin(logits[:4, 0].tolist(), logits[:4, 1].tolist())
    torch.testing.assert_close(Odin()(RewardOutput(logits=logits), said).terms, alone.terms)
