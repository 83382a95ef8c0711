from __future__ import annotations

import math
from typing import Any

import pytest

from holdtrue.data.formats.helpsteer import HelpSteer
from holdtrue.records import Answer, Group
from turns import asks, changed, says


def test_attributes_become_ratings() -> None:
    first, _, third = (HelpSteer().parse(row) for row in HelpSteer.sample)
    ratings = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 0, "verbosity": 1}
    assert first == Group(asks("Name a fruit."), (Answer(says("Apple."), ratings),))
    assert third == Group(
        asks("Hi") + says("Hello!") + asks("2 + 2?"), (Answer(says("4"), {"helpfulness": 3.5}),)
    )


def test_a_marker_that_only_announces_the_answer_is_no_turn() -> None:
    row = {"prompt": "Hi<extra_id_1>Assistant\n", "response": "Hello!", "helpfulness": 1}
    assert HelpSteer().parse(row).prompt == asks("Hi")
    assert HelpSteer(plain_text="raw").parse(HelpSteer.sample[0]).prompt == "Name a fruit."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"helpfulness": "4"}, "helpfulness is not a number: helpfulness is '4'"),
        ({"verbosity": math.nan}, "verbosity is not finite"),
        ({"response": None}, "missing field: response is null"),
        ({"prompt": None}, "missing field: prompt is null"),
        ({"prompt": " "}, "empty prompt"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("helpsteer", changes)
