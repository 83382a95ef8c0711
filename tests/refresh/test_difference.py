"""J by hand, its bounds, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from holdtrue.refresh.difference import bounds, difference, differences

LN = math.log


def test_two_answers_by_hand() -> None:
    # |d| = ln 3: σ = 3/4; J = (2/4)·3/4
    assert difference(torch.tensor([0.0, LN(3)], dtype=torch.float64)).item() == pytest.approx(3 / 8)


def test_three_answers_by_hand() -> None:
    # differences ln 2, ln 3 and ln 6: σ = 2/3, 3/4, 6/7; J = (2/9)·(2/3 + 3/4 + 6/7) = 191/378
    rewards = torch.tensor([LN(2), 0.0, LN(6)], dtype=torch.float64)
    gaps = sorted(abs(a - b) for a, b in ((LN(2), 0), (LN(2), LN(6)), (0, LN(6))))
    assert gaps == pytest.approx([LN(2), LN(3), LN(6)])
    assert difference(rewards).item() == pytest.approx(191 / 378)


def test_prompts_of_a_batch_do_not_mix_and_need_not_lie_together() -> None:
    rewards = torch.tensor([0.0, 5.0, LN(3), 5.0, 5.0], dtype=torch.float64)
    prompt = torch.tensor([0, 1, 0, 1, 1])
    # the second prompt's three rewards are equal: the lower bound 2/6
    assert differences(rewards, prompt).tolist() == pytest.approx([3 / 8, 1 / 3])


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_it_lies_between_its_bounds_and_reaches_the_lower_one(k: int) -> None:
    low, high = bounds(k)
    assert difference(torch.zeros(k, dtype=torch.float64)).item() == pytest.approx(low)
    drawn = difference(torch.randn(k, generator=torch.Generator().manual_seed(k), dtype=torch.float64))
    assert low < drawn.item() < high
    assert difference(100.0 * torch.arange(k, dtype=torch.float64)).item() == pytest.approx(high)


def test_five_answers_have_the_papers_bounds() -> None:
    assert bounds(5) == pytest.approx((0.4, 0.8))


def test_neither_an_offset_nor_the_order_changes_it() -> None:
    rewards = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    assert difference(rewards + 7).item() == pytest.approx(difference(rewards).item())
    assert difference(rewards[[2, 0, 1]]).item() == pytest.approx(difference(rewards).item())


def test_the_gradient_by_hand_pushes_apart_and_is_0_at_a_tie() -> None:
    rewards = torch.tensor([0.0, LN(3)], dtype=torch.float64, requires_grad=True)
    difference(rewards).backward()
    # (2/4)·σ'(ln 3) = (1/2)·(3/4)(1/4)
    assert rewards.grad.tolist() == pytest.approx([-3 / 32, 3 / 32])
    tied = torch.zeros(3, requires_grad=True)
    difference(tied).backward()
    assert tied.grad.tolist() == [0, 0, 0]
