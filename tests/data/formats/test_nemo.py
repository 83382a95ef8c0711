from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data.formats.nemo import NeMo
from holdtrue.records import Answer, Comparison, Group
from turns import asks, assistant, changed, says


def test_the_lowest_rank_is_preferred() -> None:
    two, three, one = (NeMo().parse(row) for row in NeMo.sample)
    answers = Answer(says("4"), {"rating": 0.0}), Answer(says("5"), {"rating": -1.0})
    assert two == Group(asks("2 + 2?"), answers, (Comparison(0, 1),))
    assert [(c.first, c.second, c.weight) for c in three.comparisons] == [
        (1, 0, 1 / 3),
        (2, 0, 1 / 3),
        (1, 2, 1 / 3),
    ]
    assert one == Group(asks("Name a fruit."), (Answer(says("Apple."), {"rating": 0.0}),))


def test_equal_ranks_are_not_ordered() -> None:
    row = {**NeMo.sample[0], "completions": [{"rank": 1, "completion": [assistant(t)]} for t in "ab"]}
    assert NeMo().parse(row).comparisons == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"context": None}, "missing field: context is null"),
        ({"context": 3}, "wrong type: context is 3"),
        ({"completions": None}, "missing field: completions is null"),
        ({"completions": [3]}, "wrong type: completions[0] is 3, expected an object"),
        ({"completions": [{"completion": "a"}]}, "missing field: rank is not there"),
        ({"completions": [{"completion": "a", "rank": "best"}]}, "rank is not a number"),
        ({"completions": [{"completion": None, "rank": 0}]}, "missing field: completion is null"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("nemo", changes)
