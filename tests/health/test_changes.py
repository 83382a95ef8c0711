import math

import numpy as np
import pytest

from holdtrue.health.changes import Limit, advance, baseline, start, trend


def run(values, limit, reference, n=16):
    state, alarms = start(), []
    for step, value in enumerate(values):
        state, alarm = advance(state, limit, reference, value, n, step)
        if alarm:
            alarms.append((step, state["since"]))
    return alarms


REFERENCE = {"mean": 0.0, "sd": 4.0, "n": 10**9}  # of 16 units: standard error 1


def test_a_shift_of_two_standard_errors_is_found_when_the_sum_says_so():
    # each step adds 2 - 0.5: 1.5, 3, 4.5, 6 > 5 at the fourth, begun with the first of them
    assert run([0, 0, 2, 2, 2, 2, 2], Limit(), REFERENCE) == [(5, 2)]


def test_one_wild_batch_is_not_enough():
    assert run([0, 100, 0, 0, 0], Limit(), REFERENCE) == []


def test_a_change_below_the_floor_is_none_that_matters():
    assert run([2] * 20, Limit(floor=3), REFERENCE) == []
    assert run([-2] * 20, Limit("lower", floor=1), REFERENCE) == [(3, 0)]


def test_a_value_beyond_the_limit_alarms_at_once_and_once_even_without_a_calibration():
    assert run([0.1, 0.6, 0.7, 0.1, 0.1, 0.8], Limit(limit=0.5), None) == [(1, 1), (5, 5)]


def test_a_small_calibration_alarms_later():
    small = {**REFERENCE, "n": 64}  # its mean is 4 / 8 uncertain: z = 2 - 2 * 0.5 = 1, 0.5 a step
    assert run([2] * 20, Limit(), small) == [(10, 0)]


def test_batches_without_a_value_change_nothing():
    assert run([2, math.nan, 2, 2, math.nan, 2], Limit(), REFERENCE) == [(5, 0)]


def test_false_alarms_are_rare():
    rng = np.random.default_rng(1)
    alarms = run(rng.standard_normal(20_000), Limit(), REFERENCE)
    assert 5 <= len(alarms) <= 50  # about one in 930 expected: 21


def test_a_rate_that_was_never_seen_has_the_spread_of_one_in_n_plus_two():
    reference = baseline(np.zeros(98), share=True)
    p = 1 / 100
    assert reference == {"mean": 0.0, "sd": pytest.approx(math.sqrt(p * (1 - p))), "n": 98}
    assert baseline(np.array([np.nan])) is None


def test_the_trend_of_a_line_is_its_rise():
    change, t = trend(np.array([1.0, 2.0, 3.0, 4.0]))
    assert change == pytest.approx(3)
    assert t > 1000
    assert trend(np.ones(5)) == (0.0, 0.0)
    assert all(math.isnan(v) for v in trend(np.array([1.0, 2.0])))
    change, t = trend(np.array([0.0, 2.0, 0.0, 2.0]))
    # slope = (-1.5*0 - .5*2 + .5*0 + 1.5*2) / 5 = 0.4; rests -.4 1.2 -1.2 .4, squares 3.2
    assert change == pytest.approx(1.2)
    assert t == pytest.approx(0.4 / math.sqrt(3.2 / 2 / 5))


def test_a_limit_that_the_calibration_passes_too_does_not_alarm():
    usual = {"mean": 0.9, "sd": 0.1, "n": 10**9}
    assert run([0.9] * 10, Limit(limit=0.5), usual) == []
    assert run([0.9] * 10, Limit(limit=0.5), None) == [(0, 0)]


def test_a_change_that_passes_the_limit_later_alarms_once_more():
    # 1.5 a step: the sum passes 5 at the fourth; the limit is passed at the seventh
    assert run([2, 2, 2, 2, 2, 2, 9, 9], Limit(limit=8), REFERENCE) == [(3, 0), (6, 0)]


def shares(rng, rate, batches, n=64):
    """Shares of n rows that are 1 at a rate."""
    return (rng.random((batches, n)) < rate).mean(1)


def alarms_of(before, after, seed, limit, steps=100, n=64):
    """Steps of the alarms on shares of ``after``; of 256 rows of the calibration ``before`` are 1."""
    reference = baseline((np.arange(256) < before * 256).astype(float), share=True)
    return [
        step for step, _ in run(shares(np.random.default_rng(seed), after, steps, n), limit, reference, n)
    ]


CUT = Limit(floor=0.1, limit=0.5, share=True)


@pytest.mark.parametrize("rate", [0.488, 0.45, 0.4])
def test_a_share_that_stays_just_below_the_limit_hardly_ever_alarms(rate):
    found = [len(alarms_of(rate, rate, seed, CUT)) for seed in range(40)]
    assert sum(found) <= 6  # of 4000 batches; 40 * 1 / 740 * 100 = 5 by chance of the limit alone


@pytest.mark.parametrize(
    ("before", "after", "most"), [(0.488, 1.0, 0), (0.488, 0.8, 1), (0.4, 0.8, 0), (0.1, 0.6, 0)]
)
def test_a_collapse_beyond_the_limit_is_found_at_once_all_the_same(before, after, most):
    first = [alarms_of(before, after, seed, CUT)[0] for seed in range(40)]
    assert np.median(first) <= most and max(first) <= 3


def test_one_of_what_the_calibration_never_showed_is_enough():
    limit, reference = Limit(limit=0.001, share=True), baseline(np.zeros(256), share=True)
    # se of the mean 0.0039, of a batch 0.0078: z = (1/64 - 2 * 0.0039) / 0.0078 = 1
    assert run([0, 1 / 64], limit, reference, n=64) == [(1, 1)]
    seen = baseline(np.repeat([0.0, 1.0], [2047, 1]), share=True)  # 1 of 2048, below the limit of 1 in 1000
    assert run([0, 1 / 64], limit, seen, n=64) == [(1, 1)]  # sd 0.0221: z = 5.1
