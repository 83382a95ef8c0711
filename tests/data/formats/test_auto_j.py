from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data.formats.auto_j import AutoJ
from holdtrue.records import Answer, Comparison, Group
from turns import asks, changed, says


def test_a_verdict_is_a_b_or_a_tie() -> None:
    first, second, third = (AutoJ().parse(row) for row in AutoJ.sample)
    answers = Answer(says("Apple.")), Answer(says("Stone."))
    assert first == Group(asks("Name a fruit."), answers, (Comparison(0, 1, label=1.0),))
    assert second.comparisons == (Comparison(0, 1, label=0.0),)
    assert third == Group(
        asks("2 + 2?"), (Answer(says("4")), Answer(says("Four"))), (Comparison(0, 1, label=0.5),)
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label": "c"}, "label out of range: label is 'c', must be one of 'a', 'b', 'tie'"),
        ({"label": 1}, "label out of range"),
        ({"label": None}, "missing field: label is null"),
        ({"response_a": None}, "missing field: response_a is null"),
        ({"response_a": "Stone."}, "identical sides"),
        ({"prompt": None}, "missing field: prompt is null"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("auto_j", changes)
