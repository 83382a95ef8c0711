"""Accuracy and its intervals, against numbers derived by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdtrue.evaluation.accuracy import interval, score
from holdtrue.intervals import wilson

GAPS = hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(-1e6, 1e6))


def test_a_right_order_counts_1_a_tie_a_half_and_a_wrong_order_0() -> None:
    assert score(np.array([0.2, 0.0, -3.0])).tolist() == [1.0, 0.5, 0.0]


@given(GAPS)
def test_swapping_all_sides_turns_accuracy_into_its_complement(gap: np.ndarray) -> None:
    assert score(gap).mean() + score(-gap).mean() == pytest.approx(1)


def test_comparisons_with_prompts_of_their_own_get_wilsons_interval() -> None:
    scores = np.array([1.0] * 8 + [0.0] * 2)
    low, high, method = interval(scores, np.arange(10), 0.95)
    assert method == "wilson"
    # (0.8 + 0.19207 ∓ 1.95996·√(0.016 + 0.0096037)) / 1.38415, with z²/2n = 0.19207 and z²/4n² = 0.0096037.
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_repeated_prompts_are_resampled_as_wholes() -> None:
    # 20 prompts, 10 with both comparisons right and 10 with both wrong: the resampled accuracy is a
    # Binomial(20, 1/2) / 20, whose 2.5 % and 97.5 % quantiles are 6/20 and 14/20.
    scores = np.repeat([1.0] * 10 + [0.0] * 10, 2)
    found = interval(scores, np.repeat(np.arange(20), 2), 0.95)
    assert found == (pytest.approx(0.3), pytest.approx(0.7), "bootstrap by prompt")


def test_the_grouped_bootstrap_agrees_with_drawing_prompts_one_by_one() -> None:
    rng = np.random.default_rng(3)
    prompt = rng.integers(0, 60, size=200)
    scores = rng.choice([0.0, 0.5, 1.0], p=[0.3, 0.1, 0.6], size=200)
    names = np.unique(prompt)
    sums = np.array([scores[prompt == name].sum() for name in names])
    counts = np.array([(prompt == name).sum() for name in names])
    drawn = rng.integers(0, len(names), size=(20_000, len(names)))
    plain = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.05, 0.95])
    assert interval(scores, prompt, 0.9)[:2] == pytest.approx(tuple(plain), abs=0.006)


def test_prompts_that_all_agree_count_once_each_instead_of_giving_a_point() -> None:
    scores, prompt = np.ones(40), np.repeat(np.arange(20), 2)
    assert interval(scores, prompt, 0.95) == (*wilson(20, 20), "wilson over prompts")


def test_fewer_than_ten_repeated_prompts_are_too_few_to_resample() -> None:
    scores, prompt = np.tile([1.0, 0.0, 1.0], 3), np.repeat(np.arange(3), 3)
    assert interval(scores, prompt, 0.95) == (*wilson(2, 3), "wilson over prompts")


def test_the_same_scores_always_give_the_same_interval_in_any_order() -> None:
    rng = np.random.default_rng(0)
    prompt, scores = rng.integers(0, 30, size=90), rng.choice([0.0, 1.0], size=90)
    order = rng.permutation(90)
    assert interval(scores, prompt, 0.95) == interval(scores[order], prompt[order], 0.95)


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    scores, prompt = np.repeat([1.0] * 12 + [0.0] * 8, 2), np.repeat(np.arange(20), 2)
    narrow, wide = interval(scores, prompt, 0.8), interval(scores, prompt, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
