from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data import formats
from holdtrue.data.formats.prm800k import PRM800K
from holdtrue.records import Answer, Group
from turns import asks, reason, says


def candidate(text: str, rating: int | None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": None}


def prm800k(*steps: dict[str, Any], solution: list[str] | None = None) -> dict[str, Any]:
    filled = [{"chosen_completion": None, "human_completion": None, "completions": [], **s} for s in steps]
    return {"question": {"problem": "q", "pre_generated_steps": solution}, "label": {"steps": filled}}


def test_a_row_of_prm800k_follows_the_chosen_the_written_or_the_pre_generated_step() -> None:
    row = prm800k(
        {"completions": [candidate("no", -1), candidate("one", 0)], "chosen_completion": 1},
        {"completions": [candidate("no", -1)], "human_completion": {"text": "two", "rating": None}},
        {"completions": [candidate("only", 1)]},
        {"completions": [candidate("other", 1), candidate("last", -1)]},
        solution=["-", "-", "-", "last"],
    )
    assert formats.recognise(row) is PRM800K
    (answer,) = PRM800K().parse(row).answers
    assert answer.text == "one\ntwo\nonly\nlast"
    assert answer.steps == ((3, 0.0), (7, 1.0), (12, 1.0), (17, -1.0))


def test_ratings_are_kept_as_given_and_the_labeler_is_the_rater() -> None:
    first, second, third = (PRM800K().parse(row) for row in PRM800K.sample)
    wrong = Answer(says("7 - 5 is 3."), steps=((11, -1.0),), rater="w1")
    assert first == Group(asks("What is 7 - 5?"), (wrong,))
    mended = Answer(says("2 * 3 = 6.\n6 + 1 = 7."), steps=((10, 1.0), (21, 1.0)))
    assert second == Group(asks("What is 2 * 3 + 1?"), (mended,))
    assert third == Group(asks("Is 9 prime?"), (Answer(says("Let me think."), steps=((13, 0.0),)),))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (prm800k({"completions": [candidate("a", 1), candidate("b", 1)]}), "step not chosen: none of 2"),
        (
            prm800k({"completions": [candidate("a", 1)], "chosen_completion": 1}),
            "chosen_completion is 1, of 1",
        ),
        (
            prm800k({"completions": [candidate("a", 1)], "human_completion": 0}),
            "wrong type: human_completion",
        ),
        (prm800k({"completions": []}), "wrong type: completions is [], expected a list of candidates"),
        (prm800k(), "wrong type: steps is [], expected a list of steps"),
        ({**PRM800K.sample[2], "question": {}}, "missing field: problem is not there"),
        ({**PRM800K.sample[2], "labeler": 3}, "wrong type: labeler is 3, expected text"),
        (prm800k({"completions": [candidate("a", True)]}), "rating is not a number: rating is True"),
        (prm800k({"completions": [candidate("", 1)]}), "empty step: step 1 of 1 has no text"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: dict[str, Any], expected: str) -> None:
    assert expected in reason(PRM800K(), row)
