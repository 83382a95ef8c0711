from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data import formats
from holdtrue.data.formats.unpaired import Unpaired
from holdtrue.records import Answer, Group
from turns import asks, assistant, changed, says, user


def test_an_answer_is_good_or_bad() -> None:
    groups = [Unpaired().parse(row) for row in Unpaired.sample]
    assert groups[0] == Group(asks("Name a fruit."), (Answer(says("Apple."), label=True),))
    assert groups[1] == Group(asks("2 + 2?"), (Answer(says("5"), label=False),))
    assert groups[2] == Group(asks("Hi"), (Answer(says("Go away."), label=False),))


def test_a_label_in_text_is_not_a_mark() -> None:
    row = {"prompt": "q", "completion": "a", "label": "ok"}
    assert formats.recognise(row).name() == "completion"
    assert formats.recognise({"messages": [user("q"), assistant("a")], "label": True}) is Unpaired


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label": 0.5}, "label out of range: label is 0.5, must be one of True, False"),
        ({"label": 2}, "label out of range"),
        ({"label": []}, "label out of range: label is []"),
        ({"label": "up"}, "label out of range: label is 'up', must be one of True, False"),
        ({"label": None}, "missing field: label is null"),
        ({"completion": None}, "missing field: completion is null"),
        ({"prompt": None}, "missing field: prompt is null"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("unpaired", changes)
