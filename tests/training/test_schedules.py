from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.settings import TrainingSettings
from holdtrue.training.schedules import factor, warmup_steps

COURSES = ["constant", "linear", "cosine", "step", "cyclical"]


def factors(course: str, total: int, **settings: float) -> list[float]:
    chosen = TrainingSettings(lr_scheduler_type=course, **settings)
    return [factor(step, total, chosen) for step in range(total)]


def test_warm_up_rises_in_equal_steps_to_the_peak_and_wastes_no_update():
    # 3 of 10 updates warm up: quarters, and the fourth update is the first at the peak.
    assert factors("constant", 10, warmup_ratio=0.3) == pytest.approx([0.25, 0.5, 0.75] + 7 * [1.0])


def test_linear_reaches_zero_one_update_after_the_last():
    assert factors("linear", 4, warmup_ratio=0) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert factors("linear", 5, warmup_ratio=0.2) == pytest.approx([0.5, 1, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle():
    # (1 + cos(π·i/4)) / 2 for i = 0..3, with cos(π/4) = 0.70711
    assert factors("cosine", 4, warmup_ratio=0) == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_step_multiplies_by_gamma_after_each_share():
    # every 0.3 · 10 = 3 updates, by 0.5
    expected = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert factors("step", 10, warmup_ratio=0, lr_step_size=0.3, lr_gamma=0.5) == pytest.approx(expected)


def test_step_counts_its_shares_from_the_end_of_warm_up():
    expected = [1 / 3, 2 / 3, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert factors("step", 10, warmup_ratio=0.2, lr_step_size=0.3, lr_gamma=0.5) == pytest.approx(expected)


def test_cyclical_is_a_triangle_between_the_peak_and_gamma():
    # a cycle of 0.4 · 10 = 4 updates: top, half-way (1 + 0.2) / 2, bottom, half-way
    expected = [1, 0.6, 0.2, 0.6, 1, 0.6, 0.2, 0.6, 1, 0.6]
    assert factors("cyclical", 10, warmup_ratio=0, lr_step_size=0.4, lr_gamma=0.2) == pytest.approx(expected)


@pytest.mark.parametrize("course", COURSES)
def test_a_run_of_one_update_uses_the_peak_rate(course):
    assert factors(course, 1, warmup_ratio=0.9) == [1.0]


@pytest.mark.parametrize(
    ("total", "ratio", "steps"), [(100, 0.07, 7), (10, 0.05, 1), (10, 0.0, 0), (10, 0.99, 9), (1, 0.5, 0)]
)
def test_warm_up_is_rounded_up_and_leaves_an_update_at_the_peak(total, ratio, steps):
    assert warmup_steps(total, ratio) == steps


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_refused_with_the_range(step):
    with pytest.raises(ValueError, match=rf"step must be in 0 \.\. 9 .* got {step}"):
        factor(step, 10, TrainingSettings())


runs = st.fixed_dictionaries(
    {
        "total": st.integers(1, 300),
        "warmup_ratio": st.floats(0, 0.99),
        "lr_step_size": st.floats(0.01, 1),
        "lr_gamma": st.floats(0.01, 0.99),
    }
)


@given(st.sampled_from(COURSES), runs)
def test_every_update_has_a_positive_rate_and_the_peak_is_reached(course, run):
    seen = factors(course, **run)
    assert all(0 < value <= 1 for value in seen)
    assert max(seen) == 1.0


@given(st.sampled_from(["constant", "linear", "cosine"]), runs)
def test_smooth_courses_rise_then_fall_without_a_jump(course, run):
    seen = factors(course, **run)
    warmup = warmup_steps(run["total"], run["warmup_ratio"])
    rises = [after - before for before, after in pairwise(seen)]
    assert all(change == pytest.approx(1 / (warmup + 1)) for change in rises[:warmup])
    # The steepest slope of the cosine is π/2 over its length, that of the line 1.
    steepest = 1.5708 / (run["total"] - warmup)
    assert all(-steepest - 1e-9 <= change <= 1e-9 for change in rises[warmup:])


@given(runs)
def test_a_cycle_never_leaves_its_band_nor_moves_faster_than_its_slope(run):
    seen = factors("cyclical", **run)[warmup_steps(run["total"], run["warmup_ratio"]) :]
    gamma, period = run["lr_gamma"], max(1, round(run["lr_step_size"] * run["total"]))
    assert all(gamma - 1e-12 <= value <= 1 for value in seen)
    slope = 2 * (1 - gamma) / period
    assert all(abs(b - a) <= slope + 1e-9 for a, b in pairwise(seen))


@given(runs)
def test_step_decays_are_powers_of_gamma_and_never_rise(run):
    seen = factors("step", **run)[warmup_steps(run["total"], run["warmup_ratio"]) :]
    period = max(1, round(run["lr_step_size"] * run["total"]))
    assert seen == sorted(seen, reverse=True)
    for index in range(period, len(seen)):
        assert seen[index] == pytest.approx(seen[index - period] * run["lr_gamma"])
