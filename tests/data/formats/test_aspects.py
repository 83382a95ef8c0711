from __future__ import annotations

import math
from typing import Any

import pytest

from holdtrue.data.formats.aspects import Aspects
from holdtrue.records import Answer, Comparison, Group
from turns import asks, changed, says


def test_aspects_become_ratings_and_nulls_none() -> None:
    several, conversation, one = (Aspects().parse(row) for row in Aspects.sample)
    assert several == Group(
        asks("Is tea hot?"),
        (
            Answer(says("Usually."), {"truthful": 1.0, "informative": 0.8}),
            Answer(says("Tea is a drink."), {"truthful": 1.0, "informative": 0.1}),
            Answer(says("No."), {"truthful": 0.0}),
        ),
    )
    assert conversation == Group(asks("2 + 2?"), (Answer(says("4"), {"helpfulness": 4.0, "verbosity": 0.0}),))
    assert one == Group(asks("Name a fruit."), (Answer(says("Apple."), {"correct": 1.0}),))


def test_only_an_aspect_called_rating_gives_comparisons() -> None:
    row = {"prompt": "q", "completions": ["a", "b"], "ratings": {"rating": [1, 2], "style": None}}
    group = Aspects().parse(row)
    assert group.comparisons == (Comparison(1, 0),)
    assert [dict(answer.ratings) for answer in group.answers] == [{"rating": 1.0}, {"rating": 2.0}]


@pytest.mark.parametrize(
    ("sample", "changes", "expected"),
    [
        (0, {"labels": {"truthful": [1, 2]}}, "labels of truthful do not fit: 3 answers need as many"),
        (0, {"labels": {"truthful": 1.0}}, "labels of truthful do not fit"),
        (0, {"labels": {"truthful": [1, "x", 1]}}, "labels of truthful is not a number"),
        (0, {"labels": {"truthful": [1, math.nan, 1]}}, "labels of truthful is not finite"),
        (0, {"completions": []}, "wrong type: completions is [], expected a list of answers"),
        (0, {"prompt": None}, "missing field: prompt is null"),
        (1, {"ratings": {"helpfulness": "4"}}, "helpfulness is not a number: helpfulness is '4'"),
        (1, {"ratings": {"safe": True}}, "safe is not a number: safe is True"),
        (1, {"messages": None}, "missing field: messages is null"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(sample: int, changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("aspects", changes, sample)
