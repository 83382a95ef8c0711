from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data import formats
from holdtrue.data.formats.llama_factory import LlamaFactory
from holdtrue.records import Answer, Comparison, Group, Message
from turns import asks, changed, says, user


def test_instruction_and_input_are_one_request_after_system_prompt_and_history() -> None:
    first, second, third = (LlamaFactory().parse(row) for row in LlamaFactory.sample)
    assert first == Group(
        asks("Correct this.\n2 + 2 = 5"),
        (Answer(says("2 + 2 = 4")), Answer(says("It is right."))),
        (Comparison(0, 1),),
    )
    assert second.prompt == (
        Message("system", "Be brief."),
        *asks("Name a fruit."),
        *says("Apple."),
        *asks("Another."),
    )
    assert third == Group(asks("Hi"), (Answer(says("Hello!")), Answer(says("Go away."))), (Comparison(0, 1),))
    assert LlamaFactory(plain_text="raw").parse(LlamaFactory.sample[0]).prompt == "Correct this.\n2 + 2 = 5"


def test_conversations_may_be_messages_and_answers_text() -> None:
    row = {"conversations": [user("q")], "chosen": "a", "rejected": "b", "margin": 2, "label": 0.75}
    assert LlamaFactory().parse(row) == Group(
        asks("q"), (Answer(says("a")), Answer(says("b"))), (Comparison(0, 1, label=0.75, margin=2.0),)
    )


def test_a_prompt_or_dialogues_in_text_beside_the_instruction_make_another_layout() -> None:
    assert formats.recognise({**LlamaFactory.sample[0], "prompt": "q"}).name() == "preference"
    dialogue = "\n\nHuman: q\n\nAssistant: "
    row = {**LlamaFactory.sample[0], "chosen": dialogue + "a", "rejected": dialogue + "b"}
    assert formats.recognise(row).name() == "hh"


@pytest.mark.parametrize(
    ("sample", "changes", "expected"),
    [
        (0, {"instruction": None}, "missing field: instruction is null"),
        (0, {"instruction": "", "input": ""}, "empty prompt"),
        (0, {"input": 3}, "wrong type: input is 3, expected text"),
        (0, {"chosen": None}, "missing field: chosen is null"),
        (0, {"chosen": "It is right."}, "identical sides"),
        (0, {"margin": "2"}, "margin is not a number"),
        (1, {"history": 3}, "wrong type: history is 3, expected a list of [request, answer]"),
        (1, {"history": [["only"]]}, "wrong type: history holds ['only'], expected [request, answer]"),
        (1, {"history": [["q", None]]}, "broken message"),
        (1, {"system": 3}, "wrong type: system is 3, expected text"),
        (2, {"conversations": []}, "wrong type: conversations is [], expected a list of turns"),
        (2, {"conversations": [{"from": "robot", "value": "x"}]}, "unknown speaker: a turn is from 'robot'"),
        (2, {"chosen": {"from": "gpt", "value": None}}, "broken message"),
        (2, {"chosen": {"from": "human", "value": "x"}}, "answer does not continue the prompt"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(sample: int, changes: dict[str, Any], expected: str) -> None:
    assert expected in changed("llama_factory", changes, sample)
