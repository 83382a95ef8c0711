from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data.formats.shp import SHP
from holdtrue.records import Answer, Comparison, Group
from turns import asks, changed, says


def test_label_one_prefers_a_and_zero_b() -> None:
    first, second, _ = (SHP().parse(row) for row in SHP.sample)
    answers = Answer(says("Seven minutes.")), Answer(says("Depends."))
    assert first == Group(asks("How long do eggs boil?"), answers, (Comparison(0, 1, label=1.0),))
    assert second.comparisons[0].preferred == (1, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": 2}, "labels out of range: labels is 2, must be one of 1, 0"),
        ({"labels": None}, "missing field: labels is null"),
        ({"labels": [1]}, "labels out of range"),
        ({"history": ""}, "empty prompt"),
        ({"history": None}, "missing field: history is null"),
        ({"human_ref_B": ["x"]}, "wrong type: human_ref_B is ['x'], expected text"),
        ({"human_ref_B": "Seven minutes."}, "identical sides"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("shp", changes)
