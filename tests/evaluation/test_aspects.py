from __future__ import annotations

import numpy as np
import pytest

from holdtrue.evaluation import evaluate
from holdtrue.evaluation.aspects import measure
from holdtrue.records import Answer, Comparison, Group
from holdtrue.settings import EvaluationSettings


def group(prompt: str, *ratings: float | None) -> Group:
    return Group(prompt, tuple(Answer(f"a{i}", {} if r is None else {"x": r}) for i, r in enumerate(ratings)))


def test_accuracy_counts_pairs_of_one_prompt_that_are_rated_differently() -> None:
    # ratings 1 2 2 and none: pairs (2 > 1) twice, with aspects 0.5 against 0.1 (right) and 0.1 (a tie)
    groups = [group("p", 1, 2, 2, None), group("q", 5)]
    found = measure(groups, {"x": [np.array([0.1, 0.5, 0.1, 9.0]), np.array([1.0])]}, 0.95)["x"]
    assert (found["pairs"], found["accuracy"], found["count"]) == (2, 0.75, 4)
    # errors 0.9, 1.5, 1.9 and 4
    assert found["mse"] == pytest.approx((0.81 + 2.25 + 3.61 + 16) / 4)


def test_an_aspect_without_pairs_has_no_accuracy_and_one_without_ratings_no_row() -> None:
    values = [np.array([1.0]), np.array([2.0])]
    found = measure([group("p", 1), group("q", 2)], {"x": values, "y": values}, 0.95)
    assert list(found) == ["x"]
    assert (found["x"]["accuracy"], found["x"]["pairs"], found["x"]["pearson"]) == (None, 0, pytest.approx(1))


def test_rated_answers_are_evaluated_without_comparisons() -> None:
    rewards = [np.array([1.0, 0.0])]
    result = evaluate([group("p", 2, 1)], rewards, EvaluationSettings(), "d", {}, aspects={"x": rewards})
    assert result["accuracy"] is None and result["aspects"]["x"]["accuracy"] == 1


def test_a_model_without_aspects_has_none() -> None:
    assert evaluate([group("p", 2, 1)], [np.zeros(2)], EvaluationSettings(), "d", {})["aspects"] is None


def test_a_mistake_carries_the_aspects_of_both_sides() -> None:
    compared = Group("p", (Answer("good"), Answer("bad")), (Comparison(0, 1),))
    parts = {"x": [np.array([0.5, 0.25])]}
    result = evaluate([compared], [np.array([0.0, 1.0])], EvaluationSettings(), "d", {}, aspects=parts)
    assert result["mistakes"][0]["aspects"] == {"x": [0.5, 0.25]}


def test_answers_to_one_prompt_in_several_rows_are_compared() -> None:
    groups = [group("p", 1), group("q", 9), group("p", 2), group("p", 3)]
    found = measure(groups, {"x": [np.array([v]) for v in (0.5, 9.0, 0.0, 0.5)]}, 0.95)["x"]
    # 2 > 1: 0.0 against 0.5 (wrong); 3 > 2: 0.5 against 0.0 (right); 3 > 1: equal
    assert (found["pairs"], found["accuracy"]) == (3, 0.5)
