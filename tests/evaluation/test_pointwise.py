from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.evaluation import pointwise
from holdtrue.records import Answer, Group


def labelled(*said: bool | None) -> list[Group]:
    return [Group("p", tuple(Answer(f"a{i}", label=label) for i, label in enumerate(said)))]


def rated(*rows: list[float | None]) -> list[Group]:
    return [
        Group(f"p{i}", tuple(Answer(f"a{j}", {} if r is None else {"rating": r}) for j, r in enumerate(row)))
        for i, row in enumerate(rows)
    ]


def measure(said: list[bool | None], *rewards: float) -> dict[str, Any]:
    found = pointwise.labels(labelled(*said), [np.array(rewards)], 0.95)
    assert found is not None
    return found


def test_auc_is_the_share_of_good_above_bad_with_ties_half() -> None:
    # good 2, 0; bad 1, 0: 2>1, 2>0, 0<1, 0=0 -> (1 + 1 + 0 + 0.5) / 4
    found = measure([True, True, False, False], 2.0, 0.0, 1.0, 0.0)
    assert found["auc"] == pytest.approx(0.625)
    assert found["right_at_zero"] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert (found["count"], found["good"]) == (4, 2)


def test_the_interval_of_the_auc_is_that_of_hanley_and_mcneil() -> None:
    # A = 0.625, m = n = 2: q1 = .625/1.375 = .454545, q2 = .78125/1.625 = .480769, A² = .390625
    # var = (.234375 + .063920 + .090144) / 4 = .0971099, sd = .311625, times 1.959964 = .610774
    low, high = measure([True, True, False, False], 2.0, 0.0, 1.0, 0.0)["auc_interval"]
    assert (low, high) == pytest.approx((0.625 - 0.610774, 1.0), abs=1e-5)


def test_one_class_has_no_auc_and_no_label_gives_nothing() -> None:
    assert measure([False, False], -1.0, 1.0)["auc"] is None
    assert pointwise.labels(labelled(None, None), [np.zeros(2)], 0.95) is None


def test_answers_without_reward_or_label_are_left_out() -> None:
    assert measure([True, None, False], 1.0, 5.0, float("nan"))["count"] == 1


def test_a_reward_that_is_the_rating_has_no_error_and_full_correlation() -> None:
    groups = rated([1.0, 2.0], [5.0, None])
    found = pointwise.ratings(groups, [np.array([1.0, 2.0]), np.array([5.0, 9.0])])
    assert found is not None
    assert found["count"] == 3 and found["rmse"] == 0
    assert found["pearson"] == pytest.approx(1) and found["spearman"] == pytest.approx(1)


def test_within_prompts_forgets_that_one_prompt_is_rated_higher() -> None:
    # Between prompts rewards follow ratings, within each they run against them.
    groups = rated([1.0, 2.0], [11.0, 12.0])
    found = pointwise.ratings(groups, [np.array([2.0, 1.0]), np.array([12.0, 11.0])])
    assert found is not None
    assert found["pearson"] > 0.9 and found["within_prompts"] == pytest.approx(-1)
    assert found["rmse"] == pytest.approx(1)


@given(st.lists(st.tuples(st.booleans(), st.floats(-5, 5)), min_size=2, max_size=30))
def test_auc_turns_round_with_the_rewards(rows: list[tuple[bool, float]]) -> None:
    said: list[bool | None] = [label for label, _ in rows]
    rewards = [value for _, value in rows]
    auc, other = measure(said, *rewards)["auc"], measure(said, *[-r for r in rewards])["auc"]
    assert (auc is None) == (len(set(said)) == 1)
    if auc is not None:
        assert auc + other == pytest.approx(1)


def test_within_prompts_takes_rows_of_one_prompt_together() -> None:
    # less their mean, ratings of "p" are -1 and 1, rewards 2 and -2; "q" has one answer, which says nothing
    groups = [Group(prompt, (Answer("a", {"rating": r}),)) for prompt, r in (("p", 1), ("q", 9), ("p", 3))]
    found = pointwise.ratings(groups, [np.array([5.0]), np.array([9.0]), np.array([1.0])])
    assert found is not None and found["within_prompts"] == pytest.approx(-1)


def test_an_area_at_its_end_has_an_interval_all_the_same() -> None:
    groups = [Group("q", (Answer("a", label=True), Answer("b", label=True), Answer("c", label=False)))]
    found = pointwise.labels(groups, [np.array([2.0, 1.0, 0.0])], 0.95)
    assert found is not None and found["auc"] == 1.0
    assert found["auc_interval"] == pytest.approx([0.2065, 1.0], abs=1e-4)  # Wilson's of 1 in 1
