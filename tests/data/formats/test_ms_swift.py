from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data.formats.ms_swift import MSSwift
from holdtrue.records import Answer, Comparison, Group, Message
from turns import asks, assistant, changed, says, user


def test_the_last_turn_is_preferred_to_the_rejected_response_or_conversation() -> None:
    first, second, third = (MSSwift().parse(row) for row in MSSwift.sample)
    assert first == Group(asks("2 + 2?"), (Answer(says("4")), Answer(says("5"))), (Comparison(0, 1),))
    assert second == Group(
        asks("Hi"), (Answer(says("Hello!")), Answer(says("Go away."))), (Comparison(0, 1, margin=1.5),)
    )
    assert third.prompt == (
        Message("system", "Be brief."),
        *asks("Name a fruit."),
        *says("Apple."),
        *asks("Another."),
    )
    assert third.answers == (Answer(says("Plum.")), Answer(says("Of fruit there are many kinds.")))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"messages": None}, "missing field: messages is null"),
        ({"messages": [user("q")]}, "last turn is not the assistant's"),
        ({"messages": [assistant("a")]}, "empty prompt"),
        ({"rejected_response": None}, "missing field: rejected_response is null"),
        ({"rejected_response": ["x", "y"]}, "wrong type: rejected_response is ['x', 'y'], expected text"),
        ({"rejected_response": "4"}, "identical sides"),
        ({"rejected_messages": [user("2 + 2?"), assistant("4")]}, "identical sides"),
        ({"rejected_messages": [user("other"), assistant("5")]}, "no common prompt"),
        ({"margin": "big"}, "margin is not a number"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("ms_swift", changes)
