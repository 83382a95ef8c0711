"""Bradley-Terry against numbers made by hand: c = (1.2, 0.3), r = (0.7, 0.9), so gaps 0.5 and -0.6."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holdtrue import kinds
from holdtrue.errors import SettingsError
from holdtrue.losses import LossTerms
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.reward.model import RewardOutput
from said import targets

CHOSEN, REJECTED = torch.tensor([1.2, 0.3]), torch.tensor([0.7, 0.9])
PLAIN = BradleyTerry()
numbers = st.floats(-20, 20, width=32)
probabilities = st.floats(0, 1, width=32)


def compare(
    first: Tensor, second: Tensor, loss: BradleyTerry = PLAIN, **said: float | list[float]
) -> LossTerms:
    """Terms of first[i] against second[i]; label, weight and margin are one number or one per pair."""
    count = len(first)
    index = torch.arange(count)
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32

    def column(name: str, default: float) -> Tensor:
        return torch.as_tensor(said.get(name, default), dtype=dtype).expand(count)

    columns = {
        "label": column("label", 1.0),
        "weight": column("weight", 1.0),
        "margin": column("margin", 0.0),
    }
    batch = targets(2 * count, index, index + count, dtype=dtype, **columns)
    return loss(RewardOutput(rewards=torch.cat([first, second])), batch)


def mean(value: LossTerms) -> float:
    """What the loop makes of the terms."""
    return float((value.weights * value.terms).sum() / value.weights.sum())


@pytest.mark.parametrize(
    ("fields", "said", "expected"),
    [
        ({}, {}, 0.755782),  # mean of log(1 + e^-0.5) = 0.474077 and log(1 + e^0.6) = 1.037488
        ({}, {"margin": 0.5}, 1.040241),  # gaps 0 and -1.1
        ({"center": 0.01}, {}, 0.781033),  # + 0.01 * mean(1.9², 1.2²)
        ({"label_smoothing": 0.1}, {}, 0.750782),  # 0.9 * loss(d) + 0.1 * loss(-d)
    ],
    ids=["plain", "margin", "centring", "smoothing"],
)
def test_the_reference_values_come_out(
    fields: dict[str, Any], said: dict[str, float], expected: float
) -> None:
    assert mean(compare(CHOSEN, REJECTED, BradleyTerry(**fields), **said)) == pytest.approx(
        expected, abs=1e-6
    )


def test_terms_are_one_per_comparison_and_are_not_normalised() -> None:
    made = compare(CHOSEN, REJECTED, weight=[3.0, 0.5])
    assert made.terms.tolist() == pytest.approx([0.474077, 1.037488], abs=1e-6)
    assert made.weights.tolist() == [3.0, 0.5]
    alone = compare(CHOSEN[1:], REJECTED[1:], weight=0.5)
    assert alone.terms.item() == made.terms[1].item()


@given(numbers, numbers)
def test_the_openai_and_the_anthropic_form_are_this_function(first: float, second: float) -> None:
    made = compare(torch.tensor([first]).double(), torch.tensor([second]).double()).terms.item()
    gap = first - second
    assert made == pytest.approx(-math.log(1 / (1 + math.exp(-gap))), rel=1e-9, abs=1e-12)
    assert made == pytest.approx(math.log(1 + math.exp(second - first)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fields", [{}, {"label_smoothing": 0.1}], ids=["plain", "smoothing"])
@pytest.mark.parametrize("gap", [-1000.0, -90.0, -20.0, -12.0, 0.0, 12.0, 1000.0])
def test_huge_gaps_are_finite_with_the_right_gradient(
    dtype: torch.dtype, fields: dict[str, float], gap: float
) -> None:
    first = torch.tensor([gap], dtype=dtype, requires_grad=True)
    second = torch.zeros(1, dtype=dtype)
    made = compare(first, second, BradleyTerry(**fields)).terms
    made.sum().backward()
    p = 1 - fields.get("label_smoothing", 0.0)
    either = math.log1p(math.exp(-abs(gap)))
    expected = p * (max(0.0, -gap) + either) + (1 - p) * (max(0.0, gap) + either)
    assert made.item() == pytest.approx(expected, rel=1e-5)
    slope = 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0
    assert first.grad.item() == pytest.approx(slope - p, abs=0.01)


@pytest.mark.parametrize("size", [1000.0, -1000.0])
def test_centring_of_huge_rewards_is_finite(size: float) -> None:
    rewards = torch.tensor([size], requires_grad=True)
    made = compare(rewards, torch.tensor([size]), BradleyTerry(center=0.01)).terms
    made.sum().backward()
    assert made.item() == pytest.approx(math.log(2) + 0.01 * (2 * size) ** 2)
    assert rewards.grad.item() == pytest.approx(-0.5 + 2 * 0.01 * 2 * size)


@pytest.mark.parametrize("fields", [{}, {"label_smoothing": 0.2, "center": 0.03}])
def test_gradients_are_the_finite_differences_in_float64(fields: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, generator=generator, dtype=torch.float64).requires_grad_()
    said = {
        "label": [1.0, 0.0, 0.5, 0.8, 0.3, 1.0],
        "margin": [0.0, 0.5, 0.2, 1.0, 0.0, 2.0],
        "weight": [1.0, 2.0, 0.0, 0.1, 1.0, 1.0],
    }

    def value(one: Tensor, other: Tensor) -> Tensor:
        made = compare(one, other, BradleyTerry(**fields), **said)
        return made.terms * made.weights

    assert torch.autograd.gradcheck(value, (first, second), eps=1e-6, atol=1e-8)


@given(numbers, numbers, probabilities, st.floats(0, 3), st.floats(0, 0.49), st.floats(0, 1))
def test_swapping_the_sides_with_the_label_changes_nothing(
    first: float, second: float, label: float, margin: float, smoothing: float, center: float
) -> None:
    loss = BradleyTerry(label_smoothing=smoothing, center=center)
    one, other = torch.tensor([first]).double(), torch.tensor([second]).double()
    there = compare(one, other, loss, label=label, margin=margin).terms.item()
    back = compare(other, one, loss, label=1 - label, margin=margin).terms.item()
    assert there == pytest.approx(back, rel=1e-9, abs=1e-9)


@given(st.floats(0.01, 0.99))
def test_a_soft_label_is_best_met_by_its_own_log_odds(label: float) -> None:
    odds = math.log(label / (1 - label))
    gap = torch.tensor([odds], dtype=torch.float64, requires_grad=True)
    compare(gap, torch.zeros(1, dtype=torch.float64), label=label).terms.sum().backward()
    assert gap.grad.item() == pytest.approx(0, abs=1e-9)


def test_a_tie_pulls_the_rewards_together_from_either_side() -> None:
    first = torch.tensor([2.0, -2.0, 0.0], requires_grad=True)
    made = compare(first, torch.zeros(3), label=0.5)
    made.terms.sum().backward()
    assert made.terms[0].item() == made.terms[1].item()
    assert made.terms[2].item() == pytest.approx(math.log(2))
    assert first.grad[0] > 0 > first.grad[1] and first.grad[2] == 0


def test_the_margin_acts_for_whichever_side_is_preferred() -> None:
    one, other = torch.tensor([1.0]), torch.tensor([0.0])
    assert compare(one, other, margin=1.0).terms.item() == pytest.approx(math.log(2))
    assert compare(other, one, margin=1.0, label=0.0).terms.item() == pytest.approx(math.log(2))
    assert compare(one, other, margin=1.0, label=0.0).terms.item() == pytest.approx(math.log(1 + math.exp(2)))


def test_only_differences_matter_unless_rewards_are_centred() -> None:
    shifted = compare(CHOSEN + 8, REJECTED + 8)
    assert mean(shifted) == pytest.approx(0.755782, abs=1e-6)
    assert mean(compare(CHOSEN + 8, REJECTED + 8, BradleyTerry(center=0.01))) > 3


def test_an_answer_in_several_comparisons_gathers_all_their_gradients() -> None:
    rewards = torch.zeros(3, requires_grad=True)
    batch = targets(3, [0, 0], [1, 2])
    BradleyTerry()(RewardOutput(rewards=rewards), batch).terms.sum().backward()
    assert rewards.grad.tolist() == [-1.0, 0.5, 0.5]


def test_no_comparisons_give_no_terms() -> None:
    assert compare(torch.zeros(0), torch.zeros(0)).terms.shape == (0,)


def test_a_model_without_rewards_is_refused() -> None:
    with pytest.raises(ValueError, match="reads rewards"):
        BradleyTerry()(RewardOutput(), targets(0))


@pytest.mark.parametrize(
    "fields",
    [{"label_smoothing": 0.5}, {"label_smoothing": -0.1}, {"center": -1.0}, {"center": float("nan")}],
)
def test_hyperparameters_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(fields))):
        kinds.choose("holdtrue.losses", {"kind": "bradley_terry", **fields}, "bradley_terry")


def test_it_reads_rewards_and_its_items_are_independent() -> None:
    assert BradleyTerry.reads == {"gap"} and not BradleyTerry.coupled
