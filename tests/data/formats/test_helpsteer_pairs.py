from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdtrue.data.formats.helpsteer_pairs import HelpSteerPairs
from holdtrue.data.reader import Reader
from holdtrue.records import Answer, Comparison, Group
from turns import asks, changed, says


def test_a_negative_strength_prefers_the_first_a_positive_the_second_and_zero_neither() -> None:
    first, second, third = (HelpSteerPairs().parse(row) for row in HelpSteerPairs.sample)
    assert first == Group(
        asks("Name a fruit."),
        (Answer(says("Apple.")), Answer(says("Stone."))),
        (Comparison(0, 1, label=1.0),),
        meta={"preference_strength": -3},
    )
    assert second == Group(
        asks("2 + 2?"),
        (Answer(says("5")), Answer(says("4"))),
        (Comparison(0, 1, label=0.0),),
        meta={"overall_preference": 2},
    )
    assert third.comparisons == (Comparison(0, 1, label=0.5),)


def test_the_strength_stays_in_the_metadata_beside_the_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(HelpSteerPairs.sample[0]) + "\n")
    (group,) = Reader([str(path)])
    assert group.meta == {"preference_strength": -3, "split": "train"}


@pytest.mark.parametrize(
    ("sample", "changes", "expected"),
    [
        (
            0,
            {"preference_strength": 4},
            "preference_strength out of range: preference_strength is 4, must be",
        ),
        (0, {"preference_strength": None}, "missing field: preference_strength is null"),
        (0, {"preference_strength": "strong"}, "preference_strength is not a number"),
        (0, {"response_2": None}, "missing field: response_2 is null"),
        (0, {"response_2": "Apple."}, "identical sides"),
        (1, {"context": None}, "missing field: context is null"),
        (1, {"context": []}, "empty prompt"),
        (1, {"overall_preference": -3.5}, "must be between -3 and 3"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(sample: int, changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("helpsteer_pairs", changes, sample)
