"""Resampling prompts."""

from __future__ import annotations

import numpy as np
import pytest

from holdtrue.evaluation.bootstrap import by_prompt, interval_by_prompt, interval_of_means


def test_values_are_summed_and_counted_by_prompt() -> None:
    sums, counts = by_prompt(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([7, 2, 7]))
    assert sums.tolist() == [[3.0, 4.0], [6.0, 8.0]]
    assert counts.tolist() == [1, 2]


def test_all_columns_see_the_same_resamples() -> None:
    values = np.random.default_rng(0).normal(size=(30, 1))
    low, high = interval_of_means(np.hstack([values, 2 * values, values]), np.ones(30), 0.9)
    assert low[0] == low[2] and low[1] == pytest.approx(2 * low[0]) and high[1] == pytest.approx(2 * high[0])


def test_many_different_prompts_agree_with_the_normal_interval() -> None:
    # The mean of 5,000 values of variance 1/12 has a standard error of 0.00408; 1.645 of them either side.
    values = np.random.default_rng(0).uniform(size=5000)
    low, high = interval_of_means(values, np.ones(5000), 0.9)
    assert (low, high) == pytest.approx((values.mean() - 0.00672, values.mean() + 0.00672), abs=4e-4)


def test_a_rule_never_differs_from_itself() -> None:
    assert interval_by_prompt(np.zeros(50), np.arange(50), 0.95) == [0.0, 0.0]


def test_the_interval_of_a_mean_is_that_of_the_sample_with_replacement() -> None:
    # Ten of 20 are 1: the mean of a resample is a Binomial(20, 1/2) / 20.
    values = np.array([0.0] * 10 + [1.0] * 10)
    assert interval_by_prompt(values, np.arange(20), 0.95) == pytest.approx([0.3, 0.7])


def test_no_interval_is_given_for_fewer_than_ten_prompts() -> None:
    assert interval_by_prompt(np.ones(90), np.repeat(np.arange(9), 10), 0.95) is None
