"""Estimates of the KL, their gradients summed over a whole vocabulary, and the controller."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.errors import QualityError
from holdtrue.policy.kl import Controller, estimate, of_answers


@given(st.floats(-5, 5))
def test_the_estimators_are_schulmans(x: float) -> None:
    log_ratio = torch.tensor(x, dtype=torch.float64)
    assert estimate(log_ratio, "k1").item() == x
    assert estimate(log_ratio, "k2").item() == pytest.approx(x * x / 2)
    k3 = estimate(log_ratio, "k3").item()
    assert k3 == pytest.approx(math.exp(-x) - 1 + x, abs=1e-12)
    assert k3 >= 0


def test_k1_and_k3_are_unbiased_and_their_gradients_are_what_the_docs_say() -> None:
    logits = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.2, -0.4, 0.5], dtype=torch.float64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    p = logprobs.detach().exp()

    def gradient(value: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(value, logits, retain_graph=True)
        return found

    reverse = (logprobs.exp() * (logprobs - reference)).sum()
    forward = (reference.exp() * (reference - logprobs)).sum()
    sampled = {name: (p * estimate(logprobs - reference, name)).sum() for name in ("k1", "k2", "k3")}  # type: ignore[arg-type]
    assert sampled["k1"].item() == pytest.approx(reverse.item())
    assert sampled["k3"].item() == pytest.approx(reverse.item())
    assert sampled["k2"].item() != pytest.approx(reverse.item(), rel=0.01)
    assert gradient(sampled["k1"]).abs().max() < 1e-12
    assert torch.allclose(gradient(sampled["k2"]), gradient(reverse))
    assert torch.allclose(gradient(sampled["k3"]), gradient(forward))


def test_k3_of_a_token_the_policy_all_but_forbids_is_finite() -> None:
    log_ratio = torch.tensor([-1000.0], requires_grad=True)
    value = estimate(log_ratio, "k3")
    value.backward()  # type: ignore[no-untyped-call]
    assert value.isfinite() and log_ratio.grad is not None and log_ratio.grad.isfinite()


def test_the_kl_of_an_answer_is_the_sum_over_its_tokens() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, math.nan]])
    reference = torch.tensor([[-1.5, -1.0, -3.0]])
    mask = torch.tensor([[True, True, False]])
    assert of_answers(logprobs, reference, mask).tolist() == [-0.5]  # 0.5 - 1


def test_the_coefficient_moves_towards_the_target_and_by_at_most_a_fifth() -> None:
    controller = Controller(0.1, target=6.0, horizon=1000)
    controller.update(6.6, answers=100)  # error 0.1, so β · (1 + 0.1 · 100/1000)
    assert controller.coef == pytest.approx(0.101)
    controller.update(600.0, answers=100)  # error cut at 0.2
    assert controller.coef == pytest.approx(0.101 * 1.02)
    controller.update(-5.0, answers=500)  # cut at -0.2
    assert controller.coef == pytest.approx(0.101 * 1.02 * 0.9)


def test_the_loop_of_controller_and_policy_settles_at_the_target() -> None:
    controller = Controller(1.0, target=2.0, horizon=100)
    for _ in range(2000):
        controller.update(0.5 / controller.coef, answers=10)  # a policy whose KL falls as β rises
    assert controller.coef == pytest.approx(0.25, rel=1e-3)


def test_without_a_target_the_coefficient_stays() -> None:
    controller = Controller(0.05)
    controller.update(1e9, answers=100)
    assert controller.coef == 0.05


def test_a_controller_goes_on_from_its_state() -> None:
    first, second = Controller(0.1, target=6.0), Controller(0.1, target=6.0)
    first.update(9.0, answers=64)
    second.load_state_dict(first.state_dict())
    first.update(3.0, answers=64)
    second.update(3.0, answers=64)
    assert first.coef == second.coef != 0.1


def test_a_kl_that_is_not_a_number_stops_the_run() -> None:
    with pytest.raises(QualityError, match="KL to the reference policy is nan"):
        Controller(0.1, target=6.0).update(math.nan, answers=8)
