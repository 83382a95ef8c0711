from __future__ import annotations

import math
from typing import Any

import pytest

from holdtrue.data.formats.fine_grained import FineGrained
from holdtrue.records import Answer, Comparison, Group, Span
from turns import asks, changed, says


def test_errors_become_spans_and_labels_ratings() -> None:
    first, second, _ = (FineGrained().parse(row) for row in FineGrained.sample)
    text = "Tea is from China. It is a metal."
    assert text[19:33] == "It is a metal."
    span = Span(19, 33, "Wrong-Grounding")
    answer = Answer(says(text), {"relevance": 0.0, "factuality": -1.0}, spans=(span,))
    assert first == Group(asks("Where is tea from?"), (answer,))
    assert second == Group(asks("2 + 2?"), (Answer(says("4"), {"relevance": 0.0}),))


def test_all_pairs_of_a_row_weigh_one_together_ties_included() -> None:
    group = FineGrained().parse(FineGrained.sample[2])
    assert group == Group(
        asks("Name a fruit."),
        (Answer(says("Apple.")), Answer(says("Stone.")), Answer(says("Plum."))),
        (
            Comparison(0, 1, label=1.0, weight=1 / 3),
            Comparison(0, 2, label=0.5, weight=1 / 3),
            Comparison(1, 2, label=0.0, weight=1 / 3),
        ),
    )


@pytest.mark.parametrize(
    ("sample", "changes", "expected"),
    [
        (0, {"errors": None}, "missing field: errors is null"),
        (0, {"errors": [3]}, "wrong type: errors[0] is 3, expected an object"),
        (0, {"errors": [{"type": "x", "start": 0, "end": 34}]}, "is no part of an answer of 33 characters"),
        (0, {"errors": [{"type": "x", "start": 4, "end": 4}]}, "span out of range"),
        (0, {"errors": [{"type": "x", "start": 0.0, "end": 4}]}, "span out of range"),
        (0, {"errors": [{"start": 0, "end": 4}]}, "missing field: type is not there"),
        (0, {"labels": {"factuality": math.nan}}, "factuality is not finite"),
        (0, {"labels": [1]}, "wrong type: labels is [1], expected an object"),
        (0, {"completion": None}, "missing field: completion is null"),
        (2, {"pairwise": []}, "wrong type: pairwise is [], expected a list of comparisons"),
        (2, {"pairwise": [{"i": 0, "j": 3, "label": 1}]}, "j out of range: j is 3, must be one of 0, 1, 2"),
        (
            2,
            {"pairwise": [{"i": 1, "j": 1, "label": 1}]},
            "identical sides: answer 1 is compared with itself",
        ),
        (2, {"pairwise": [{"i": 0, "j": 1, "label": 3}]}, "label out of range"),
        (2, {"pairwise": [{"i": 0, "j": 1}]}, "missing field: label is not there"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(sample: int, changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("fine_grained", changes, sample)
