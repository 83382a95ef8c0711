"""Where steps end is a matter of the text alone."""

from __future__ import annotations

from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue import steps
from holdtrue.data.formats.steps import judged
from holdtrue.records import Answer


def test_a_step_ends_with_its_last_visible_character() -> None:
    #       0123456789012345
    text = "One. \n\n  Two.\n"
    assert steps.step_ends(text, "\n") == [4, 13]
    assert text[:4] == "One." and text[:13].endswith("Two.")


def test_the_separator_may_be_any_text() -> None:
    assert steps.step_ends("a ## b##c", "##") == [1, 6, 9]


def test_values_stand_at_the_steps_they_were_given_to_and_others_have_none() -> None:
    answer = Answer("One. \nTwo.\nThree.", steps=((5, 1.0), (17, 0.0)))  # the first counts its blank
    ends, values = steps.of(answer, "\n")
    assert ends == [4, 10, 17]
    assert values[0] == 1.0 and isnan(values[1]) and values[2] == 0.0


def test_a_value_in_the_middle_of_a_step_is_that_of_none() -> None:
    answer = Answer("One. Two.", steps=((4, 1.0), (9, 0.0)))
    assert steps.of(answer, "\n")[1] == [0.0]


@given(st.lists(st.text("ab .", min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_every_step_of_the_layout_is_found_again(texts: list[str]) -> None:
    group = judged("q", texts, [float(i) for i in range(len(texts))], "labels", "raw")
    assert steps.of(group.answers[0], "\n")[1] == [float(i) for i in range(len(texts))]


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_a_text_without_anything_visible_has_no_steps(text: str) -> None:
    assert steps.step_ends(text, "\n") == []
