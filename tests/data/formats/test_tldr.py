from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data.formats.tldr import TLDR
from holdtrue.records import Answer, Comparison, Group
from turns import asks, changed, says

POST = "SUBREDDIT: r/tea\n\nTITLE: Cold tea?\n\nPOST: My tea went cold. I drank it.\n\nTL;DR:"


def test_a_post_is_written_out_as_published_and_the_choice_becomes_the_label() -> None:
    first, second, third = (TLDR().parse(row) for row in TLDR.sample)
    answers = Answer(says(" Tea went cold.")), Answer(says(" Drank cold tea."))
    assert first == Group(asks(POST), answers, (Comparison(0, 1, label=0.0, rater="w1"),), {"rater": "w1"})
    assert second.comparisons == (Comparison(0, 1, label=1.0),)
    assert third.prompt == asks("Article:\nIt rained on Monday.\n\nTL;DR:\n")


def test_in_raw_text_prompt_and_summary_join_as_they_stand() -> None:
    assert TLDR(plain_text="raw").parse(TLDR.sample[0]).conversation(0) == POST + " Tea went cold."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"choice": 2}, "choice out of range: choice is 2, must be one of 0, 1"),
        ({"choice": None}, "missing field: choice is null"),
        ({"choice": 0.5}, "choice out of range"),
        ({"info": None}, "missing field: info is null"),
        ({"info": {"title": "t", "post": "p"}}, "missing field: subreddit is not there"),
        ({"info": {"subreddit": "s", "title": 3, "post": "p"}}, "wrong type: title is 3, expected text"),
        ({"summaries": [{"text": "a"}]}, "wrong type: summaries has 1 items, expected two"),
        ({"summaries": ["a", "b"]}, "wrong type: summaries[0] is 'a', expected an object"),
        ({"summaries": [{"text": "a"}, {"text": None}]}, "missing field: text is null"),
        ({"summaries": [{"text": "a"}, {"text": "a"}]}, "identical sides"),
        ({"worker": 7}, "wrong type: worker is 7, expected text"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("tldr", changes)
