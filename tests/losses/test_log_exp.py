"""The Anthropic form of Bradley-Terry is Bradley-Terry; as printed it overflows, here it does not."""

from __future__ import annotations

import pytest
import torch

from holdtrue import kinds
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.losses.log_exp import LogExp
from holdtrue.reward.model import RewardOutput
from said import targets


def losses(gaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rewards = torch.cat([gaps, torch.zeros(len(gaps))]).requires_grad_()
    index = torch.arange(len(gaps))
    found = LogExp()(RewardOutput(rewards=rewards), targets(2 * len(gaps), index, index + len(gaps))).terms
    (gradient,) = torch.autograd.grad(found.sum(), rewards)
    return found.detach(), gradient[: len(gaps)]


def test_it_is_the_form_as_printed_where_that_does_not_overflow() -> None:
    gaps = torch.linspace(-80, 15, 39)
    printed = (1 + gaps.neg().exp()).log()
    torch.testing.assert_close(losses(gaps)[0], printed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gap", [-90.0, -1e4])
def test_where_the_form_as_printed_overflows_it_is_the_gap_with_gradient_one(gap: float) -> None:
    printed = torch.tensor([gap], requires_grad=True)
    value = (1 + printed.neg().exp()).log()
    value.backward()
    assert value.isinf() and printed.grad.isnan()
    found, gradient = losses(torch.tensor([gap]))
    assert found.item() == -gap and gradient.item() == -1


def test_it_is_bradley_terry_with_all_of_its_fields() -> None:
    assert issubclass(LogExp, BradleyTerry) and LogExp.model_fields.keys() == BradleyTerry.model_fields.keys()
    assert LogExp.__call__ is BradleyTerry.__call__
    chosen = kinds.choose("holdtrue.losses", {"kind": "log_exp", "center": 0.01}, "bradley_terry")
    assert (chosen.name(), chosen.center) == ("log_exp", 0.01)
