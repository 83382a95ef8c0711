"""Values of steps against judgements, by hand."""

from __future__ import annotations

import pytest

from holdtrue.evaluation.steps import agreement
from holdtrue.records import Answer, Group

NAN = float("nan")


def group(*steps: tuple[int, float]) -> Group:
    return Group("q", (Answer("One.\nTwo.\nThree.", steps=steps),))


def test_right_steps_are_told_from_wrong_ones() -> None:
    groups = [group((4, 1.0), (9, 0.0)), group((4, 1.0), (16, 0.0))]
    values = [[[(4, 2.0), (9, -1.0), (16, 5.0)]], [[(4, -2.0), (9, 0.0), (16, -3.0)]]]
    found = agreement(groups, values, 0.95)["steps"]
    # right steps 2 and -2, wrong ones -1 and -3: 3 of 4 pairs in order; 2 > 0, -1 < 0 and -3 < 0 are right
    assert found["auc"] == pytest.approx(0.75) and found["right_at_zero"] == pytest.approx(0.75)
    assert found["count"] == 4 and found["right_steps"] == 2 and found["unmatched"] == 0


def test_neutral_steps_of_minus_one_to_one_count_as_right() -> None:
    found = agreement([group((4, 0.0), (9, -1.0))], [[[(4, 1.0), (9, -1.0)]]], 0.95)["steps"]
    assert found["threshold"] == 0 and found["right_steps"] == 1 and found["right_at_zero"] == 1


def test_judgements_the_model_read_no_step_for_are_counted() -> None:
    found = agreement([group((4, 1.0), (7, 0.0), (9, 0.0))], [[[(4, 1.0), (9, NAN)]]], 0.95)["steps"]
    assert found["count"] == 1 and found["unmatched"] == 2 and found["auc"] is None


def test_nothing_is_said_where_nothing_was_judged_or_read() -> None:
    assert agreement([group()], [[[(4, 1.0)]]], 0.95) == {}
    assert agreement([group((4, 1.0))], [None], 0.95) == {}
