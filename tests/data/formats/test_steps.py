from __future__ import annotations

import math
from typing import Any

import pytest

from holdtrue.data.formats.steps import Steps
from holdtrue.records import Answer, Group
from turns import asks, changed, says


def test_steps_are_joined_by_line_breaks_and_their_ends_are_characters_of_the_answer() -> None:
    # "3 * 4 = 12." is 11 characters, the line break 1, "12 + 1 = 14." 12, "The answer is 14." 17
    text = "3 * 4 = 12.\n12 + 1 = 14.\nThe answer is 14."
    judged = Answer(says(text), steps=((11, 1.0), (24, 0.0), (42, 0.0)))
    assert Steps().parse(Steps.sample[0]) == Group(asks("What is 3 * 4 + 1?"), (judged,))
    assert text[:24].endswith("12 + 1 = 14.") and len(text) == 42
    raw = Steps(plain_text="raw").parse(Steps.sample[0])
    assert (raw.prompt, raw.answers[0].content) == ("What is 3 * 4 + 1?", text)
    assert Steps().parse(Steps.sample[1]).answers[0].steps == ((10, 0.9),)


def test_a_step_that_was_not_judged_is_in_the_text_without_a_value() -> None:
    row = {"prompt": "q", "completions": ["ab", "cd", "ef"], "labels": [None, -1, True]}
    (answer,) = Steps().parse(row).answers
    assert (answer.text, answer.steps) == ("ab\ncd\nef", ((5, -1.0), (8, 1.0)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": [True]}, "labels do not fit: 3 steps need as many labels, got [True]"),
        ({"labels": None}, "missing field: labels is null"),
        ({"labels": []}, "wrong type: labels is [], expected a list of one label per step"),
        ({"labels": [True, "no", True]}, "labels is not a number: labels is 'no'"),
        ({"labels": [True, math.nan, True]}, "labels is not finite"),
        ({"completions": ["a", None, "c"]}, "missing field: completions[1] is null"),
        ({"completions": ["a", " ", "c"]}, "empty step: step 2 of 3 has no text"),
        ({"completions": ["a", ["b"], "c"]}, "wrong type: completions[1] is ['b'], expected text"),
        ({"prompt": None}, "missing field: prompt is null"),
    ],
)
def test_steps_that_cannot_be_used_say_why(changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("steps", changes)
