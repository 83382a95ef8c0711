from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data import formats
from holdtrue.data.formats.preference import Preference
from holdtrue.data.formats.ultrafeedback import UltraFeedback
from holdtrue.records import Answer, Comparison, Group
from turns import asks, changed, says


def test_ratings_per_aspect_and_overall_give_one_comparison() -> None:
    first, second, third = (UltraFeedback().parse(row) for row in UltraFeedback.sample)
    assert first == Group(
        asks("Name a fruit."),
        (
            Answer(says("Apple."), {"helpfulness": 5.0, "rating": 9.0}),
            Answer(says("Stone."), {"helpfulness": 1.0, "honesty": 3.0, "rating": 2.0}),
        ),
        (Comparison(0, 1),),
    )
    assert second.comparisons == ()
    assert [dict(a.ratings) for a in second.answers] == [
        {"truthfulness": 5.0, "rating": 8.5},
        {"rating": 8.5},
    ]
    assert third == Group(asks("Hi"), (Answer(says("Hello!")),))


def test_the_binarized_version_is_a_preference() -> None:
    row = {
        "prompt": "q",
        "prompt_id": "1",
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    }
    assert formats.recognise(row) is Preference
    assert Preference().parse(row) == Group(
        asks("q"), (Answer(says("a")), Answer(says("b"))), (Comparison(0, 1),)
    )


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ({"overall_score": 5}, "missing field: response is not there"),
        ({"response": "a", "overall_score": "high"}, "overall_score is not a number"),
        ({"response": "a", "overall_score": float("nan")}, "overall_score is not finite"),
        ({"response": "a", "annotations": {"honesty": {"Rating": "good"}}}, "honesty is not a number"),
        ({"response": "a", "annotations": {"honesty": {"Rating": "nan"}}}, "honesty is not finite"),
        (
            {"response": "a", "annotations": {"honesty": [1]}},
            "wrong type: honesty is [1], expected an object",
        ),
        ({"response": "a", "annotations": []}, "wrong type: annotations is [], expected an object"),
    ],
)
def test_a_completion_that_cannot_be_used_says_why(completion: dict[str, Any], expected: str) -> None:
    assert expected in changed("ultrafeedback", {"completions": [completion]})


def test_a_row_without_completions_or_instruction_says_so() -> None:
    assert "wrong type: completions is []" in changed("ultrafeedback", {"completions": []})
    assert "missing field: instruction is null" in changed("ultrafeedback", {"instruction": None})
