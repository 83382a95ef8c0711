"""Calibration against numbers derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdtrue.evaluation.calibration import (
    brier,
    ece,
    favourite,
    fit_temperature,
    log_loss,
    reliability,
    sigmoid,
)
from holdtrue.evaluation.pairs import Pairs

THREE_OF_FOUR = np.array([1.0, 1.0, 1.0, 0.0])
LN3 = np.full(4, math.log(3))  # σ(ln 3) = 3/4


def make_pairs(gap: list[float], label: list[float]) -> Pairs:
    rows = np.arange(len(gap))
    return Pairs(np.array(gap), np.array(label), np.zeros(len(gap)), rows, rows, rows, rows, unscored=0)


def test_the_favourite_wins_where_gap_and_label_agree() -> None:
    size, outcome = favourite(make_pairs([2.0, -3.0, 0.0, -1.0, 1.0], [1.0, 1.0, 1.0, 0.5, 0.8]))
    assert size.tolist() == [2.0, 3.0, 0.0, 1.0, 1.0]
    assert outcome.tolist() == [1.0, 0.0, 0.5, 0.5, 0.8]


def test_being_three_quarters_sure_and_right_three_times_in_four_is_calibrated() -> None:
    assert ece(reliability(LN3, THREE_OF_FOUR, 10, 0.95)) == pytest.approx(0, abs=1e-12)
    assert brier(LN3, THREE_OF_FOUR) == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    assert log_loss(LN3, THREE_OF_FOUR) == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)


def test_being_three_quarters_sure_and_right_half_the_time_is_off_by_a_quarter() -> None:
    assert ece(reliability(LN3, np.array([1.0, 0.0, 1.0, 0.0]), 10, 0.95)) == pytest.approx(0.25)


def test_a_model_without_opinion_costs_log_2_nats() -> None:
    assert log_loss(np.zeros(3), np.full(3, 0.5)) == pytest.approx(math.log(2))


def test_a_gap_of_ten_thousand_the_wrong_way_costs_ten_thousand_nats() -> None:
    assert log_loss(np.array([1e4]), np.array([0.0])) == 1e4
    assert sigmoid(np.array([1e4, -1e4])).tolist() == [1.0, 0.0]


def test_bins_hold_equal_shares_and_equal_confidences_share_a_bin() -> None:
    size = np.repeat(np.arange(5) / 5, 4)
    table = reliability(size, np.ones(20), 5, 0.95)
    assert sum(row["count"] for row in table) == 20
    assert all(row["count"] % 4 == 0 for row in table)
    even = reliability(np.linspace(0, 3, 1000), np.ones(1000), 10, 0.95)
    assert len(even) == 10
    assert all(99 <= row["count"] <= 101 for row in even)


def test_showing_each_comparison_in_both_orders_gives_the_same_error() -> None:
    rng = np.random.default_rng(0)
    size = rng.gamma(1.0, 1.0, size=300)
    outcome = (rng.random(300) < sigmoid(size)).astype(float)
    table = reliability(size, outcome, 10, 0.95)
    # P(first preferred) for both orders, in the bins of the table and in their mirror images.
    both = 0.0
    for row in table:
        inside = (sigmoid(size) >= row["low"]) & (sigmoid(size) <= row["high"])
        for p, y in ((sigmoid(size), outcome), (1 - sigmoid(size), 1 - outcome)):
            both += inside.sum() * abs(p[inside].mean() - y[inside].mean())
    assert ece(table) == pytest.approx(both / 600)


def test_the_fitted_temperature_makes_confidence_equal_to_accuracy() -> None:
    # All gaps are 2 and 3 of 4 are right: σ(2/T) = 3/4, so T = 2 / ln 3.
    found = fit_temperature(np.full(4, 2.0), THREE_OF_FOUR)
    assert found.value == pytest.approx(2 / math.log(3))
    assert not found.bounded


@given(
    hnp.arrays(np.float64, 40, elements=st.floats(0.01, 10)),
    st.floats(1e-6, 1e6),
)
def test_rewards_in_other_units_scale_the_temperature(size: np.ndarray, unit: float) -> None:
    outcome = np.tile([1.0, 0.0, 1.0, 1.0], 10)
    plain, scaled = fit_temperature(size, outcome), fit_temperature(size * unit, outcome)
    assert plain.value is not None
    assert scaled.value == pytest.approx(plain.value * unit, rel=1e-6)


@given(hnp.arrays(np.float64, 30, elements=st.floats(0.01, 10)), st.integers(0, 2**30 - 1))
def test_no_temperature_in_the_range_beats_the_fitted_one(size: np.ndarray, bits: int) -> None:
    outcome = np.array([float(bits >> i & 1) for i in range(30)])
    found = fit_temperature(size, outcome).value
    assert found is not None
    best = log_loss(size / found, outcome)
    scale = math.sqrt(np.mean(size**2))
    assert all(best <= log_loss(size / t, outcome) + 1e-9 for t in scale * np.geomspace(0.01, 100, 40))


def test_a_perfect_order_has_no_best_temperature_and_the_lower_bound_is_said_to_be_one() -> None:
    assert fit_temperature(np.full(3, 5.0), np.ones(3)) == (pytest.approx(0.05), True)


def test_an_order_no_better_than_chance_ends_at_the_upper_bound() -> None:
    assert fit_temperature(np.full(2, 5.0), np.array([1.0, 0.0])) == (pytest.approx(500), True)


def test_equal_rewards_everywhere_have_no_temperature() -> None:
    assert fit_temperature(np.zeros(4), np.full(4, 0.5)) == (None, False)
