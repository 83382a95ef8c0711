"""Shift telemetry by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from holdtrue.errors import DataError
from holdtrue.intervals import wilson
from holdtrue.records import Answer, Comparison, Group
from holdtrue.refresh import telemetry

A = np.array


def group(*comparisons: Comparison) -> Group:
    return Group("prompt", tuple(Answer(text) for text in "abc"), comparisons)


def test_kl_is_the_mean_log_ratio_with_an_error_over_prompts() -> None:
    mean, error = telemetry.kl([A([1.0, 3.0]), A([4.0, 4.0])])
    # prompts' means 2 and 4: standard deviation √2, over √2 prompts
    assert (mean, error) == pytest.approx((3.0, 1.0))
    assert math.isnan(telemetry.kl([A([1.0])])[1])


def test_spread_is_the_root_mean_square_difference_within_prompts() -> None:
    # differences 3; 1, 2, 1: √((9 + 1 + 4 + 1) / 4); an answer without a reward is left out
    assert telemetry.spread([A([0.0, 3.0, np.nan]), A([0.0, 1.0, 2.0])]) == pytest.approx(math.sqrt(15 / 4))


def test_mean_difference_leaves_out_prompts_with_one_reward() -> None:
    found = telemetry.mean_difference([A([0.0, math.log(3)]), A([1.0, np.nan])])
    assert found == pytest.approx(3 / 8)


def test_disagreement_is_measured_on_each_models_own_scale() -> None:
    # gaps 2 on a scale of 1 and 40 on a scale of 10: z-gaps 2 and 4, whose deviation is 1
    found = telemetry.disagreement(
        [[A([2.0, 0.0])], [A([40.0, 0.0])]], [[A([-1.0, 1.0])], [A([-10.0, 10.0])]]
    )
    assert found == pytest.approx(1.0)
    with pytest.raises(DataError, match="two models or more, got 1"):
        telemetry.disagreement([[A([1.0, 0.0])]], [[A([1.0, 0.0])]])


def test_mahalanobis_distance_of_many_reference_states_is_that_of_their_covariance() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(20000, 2)) * [1.0, 10.0]
    found = telemetry.mahalanobis(A([[3.0, 0.0], [0.0, 30.0]]), reference)
    assert found == pytest.approx([3 / math.sqrt(2)] * 2, rel=0.03)
    assert np.square(telemetry.mahalanobis(reference, reference)).mean() == pytest.approx(1, rel=0.01)


def test_few_reference_states_are_shrunk_to_something_invertible() -> None:
    rng = np.random.default_rng(1)
    mean, covariance = telemetry.shrunk_covariance(rng.normal(size=(5, 30)))
    assert np.linalg.eigvalsh(covariance).min() > 0.1 and mean.shape == (30,)
    assert np.isfinite(telemetry.mahalanobis(rng.normal(size=(3, 30)), rng.normal(size=(5, 30)))).all()


def test_shrinkage_by_hand() -> None:
    # rows ±(1, 0): S = diag(1, 0), m = 1/2, ‖S - mI‖² = 1/2; Σ‖x‖⁴/n - ‖S‖² = 0: the least, 1e-6
    found = telemetry.shrunk_covariance(A([[1.0, 0.0], [-1.0, 0.0]]))[1]
    np.testing.assert_allclose(found, [[1 - 5e-7, 0], [0, 5e-7]])
    # (1,0), (-1,0), (0,1), (0,-1): S = I/2 is already round: all of it
    rows = A([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(telemetry.shrunk_covariance(rows)[1], np.eye(2) / 2)


def test_unmoved_states_are_as_far_as_the_references_own_even_if_these_are_few() -> None:
    rng = np.random.default_rng(2)
    drawn = [rng.normal(size=(10, 16)) for _ in range(2)]
    rewards = [A([0.0, 1.0])]
    same = telemetry.measure(rewards, states=([drawn[0]], [drawn[1]]))
    moved = telemetry.measure(rewards, states=([drawn[0] + 3.0], [drawn[1]]))
    assert same.mahalanobis == pytest.approx(same.reference_mahalanobis, rel=0.2)
    assert moved.mahalanobis > 1.5 * moved.reference_mahalanobis
    assert telemetry.measure(rewards, states=([drawn[0]], [drawn[1][:3]])).mahalanobis is None


def test_pair_accuracy_leaves_out_ties_and_counts_equal_rewards_half() -> None:
    labelled = [
        group(Comparison(0, 1), Comparison(1, 2, 0.0), Comparison(0, 2, 0.5)),
        group(Comparison(0, 1)),
    ]
    assert telemetry.pair_accuracy([A([2.0, 1.0, 0.0]), A([1.0, 1.0, 0.0])], labelled) == (1.5, 3)


def test_all_of_a_round_together() -> None:
    rewards, reference = [A([4.0, 8.0])], [A([-1.0, 1.0])]
    shift = telemetry.measure(
        rewards,
        reference=reference,
        log_ratios=[A([1.0, 2.0])],
        held_out=([A([1.0, 1.0])], [A([0.0, 2.0])]),
        labelled=[group(Comparison(0, 1))],
    )
    # whitened: the proxy says 6, the held-out model (1 - 1) / 1 = 0
    assert (shift.relative_spread, shift.kl, shift.proxy_gap) == pytest.approx((2.0, 1.5, 6.0))
    assert (shift.accuracy, shift.labels, (shift.low, shift.high)) == (0.0, 1, wilson(0, 1))
    assert shift.disagreement is None and shift.mahalanobis is None
    assert shift.as_json()["answers"] == 2


def test_single_answers_say_what_needs_no_second_one() -> None:
    shift = telemetry.measure(
        [A([4.0]), A([np.nan, 8.0])], reference=[A([-1.0]), A([1.0])], log_ratios=[A([2.0])]
    )
    assert (shift.reward, shift.kl, shift.answers) == (6.0, 2.0, 2)  # (6 - 0) / 1
    assert shift.spread is None and shift.difference is None and shift.relative_spread is None


def test_answers_without_rewards_are_refused() -> None:
    with pytest.raises(DataError, match="no answer has a reward"):
        telemetry.measure([A([np.nan])])
    with pytest.raises(DataError, match="no prompt has two answers with a reward"):
        telemetry.spread([A([1.0]), A([np.nan, 2.0])])
    with pytest.raises(DataError, match="all reference rewards are equal"):
        telemetry.whitened([A([1.0])], [A([1.0, 1.0])])
