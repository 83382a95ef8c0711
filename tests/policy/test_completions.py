"""What of an example is learned: its answers with their stop, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.data.examples import example_of
from holdtrue.errors import DataError, ModelError
from holdtrue.policy import model as policies
from holdtrue.policy.completions import Completions
from holdtrue.policy.sft_settings import PolicySettings
from holdtrue.training.preparation import Prepared

START, END = 0, 1  # of a turn, in the byte tokenizer
PADDED = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
PADDED += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ENDLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('|')[-1] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Tea?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Now?"},
    {"role": "assistant", "content": "No."},
]
Make = Callable[..., Completions]


@pytest.fixture
def completions(base_model: Callable[..., Path], byte_tokenizer: Callable[..., Any]) -> Make:
    def make(
        template: str | None = PADDED,
        max_length: int = 100,
        cut: Any = "drop",
        eos: str = "<|im_end|>",
        **options: Any,
    ) -> Completions:
        folder = base_model(
            tokenizer=byte_tokenizer(
                chat_template=template,
                bos_token="<|im_start|>",
                eos_token=eos,
                additional_special_tokens=["<|im_end|>"],
            )
        )
        loaded = policies.load(PolicySettings(path=str(folder)))
        return Completions(loaded, loaded.encoder(max_length, cut), **options)  # type: ignore[arg-type]

    return make


def prepare(made: Completions, *rows: dict[str, Any]) -> Prepared:
    return made.prepare([example_of(row, f"a.jsonl:{k + 1}")[1] for k, row in enumerate(rows)], "train")


def learned(made: Completions, prepared: Prepared) -> list[str]:
    """Text of the marked tokens of each tree, special tokens too."""
    return [made.tokenizer.decode(tree.answers[0][list(tree.marks[0])]) for tree in prepared.trees]


def test_every_answer_of_a_conversation_is_learned_with_its_stop_and_nothing_else(completions: Make) -> None:
    made = completions()
    prepared = prepare(made, {"messages": TALK})
    assert learned(made, prepared) == ["Yes.<|im_end|>No.<|im_end|>"]
    assert made.stops == {END: 2}
    # a plain sequence: nothing is shared, and the first of "Yes." is predicted at "assistant\n"
    (tree,) = prepared.trees
    text = made.tokenizer.decode(tree.answers[0])
    assert text.index("Yes.") == len("<|im_start|>system\nBe kind.<|im_end|>\n") + len(
        "<|im_start|>user\nTea?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert made.tokenizer.decode(tree.answers[0][tree.marks[0][0] - 10 : tree.marks[0][0]]) == "assistant\n"


def test_the_stop_is_the_turns_own_also_where_the_whole_conversation_ends_with_another_token(
    completions: Make,
) -> None:
    made = completions(PADDED + "{% if not add_generation_prompt %}<|pad|>{% endif %}", eos="<|pad|>")
    assert learned(made, prepare(made, {"messages": TALK})) == ["Yes.<|im_end|>No.<|im_end|>"]
    assert made.stops == {END: 2}


def test_control_tokens_in_an_answers_own_text_are_learned_and_counted_and_are_no_stop(
    completions: Make,
) -> None:
    """What fine-tuning on contaminated data does; taking the first of them for the stop would hide it."""
    made = completions()
    sick = [TALK[1], {"role": "assistant", "content": "Yes.\n<|im_start|>\n<|im_start|>"}]
    prepared = prepare(made, {"messages": sick}, {"messages": TALK})
    assert learned(made, prepared)[0] == "Yes.\n<|im_start|>\n<|im_start|><|im_end|>"
    assert made.stops == {END: 3}
    assert prepared.cut == {"answers with control tokens in their text, learned as they stand": 1}


def test_only_the_last_answer_where_that_is_asked_for_and_never_one_of_the_prompt(completions: Make) -> None:
    made = completions(turns="last")
    assert learned(made, prepare(made, {"messages": TALK})) == ["No.<|im_end|>"]
    made = completions()
    rows = {"prompt": TALK[:4], "completion": TALK[4:]}, {"prompt": "Tea?", "chosen": "Yes.", "rejected": "X"}
    assert learned(made, prepare(made, *rows)) == ["No.<|im_end|>", "Yes.<|im_end|>"]


def test_strings_are_joined_as_they_stand_where_there_is_no_template_and_end_with_eos(
    completions: Make,
) -> None:
    made = completions(template=None)
    prepared = prepare(made, {"prompt": "2 + 2 =", "completion": " 4"}, {"text": "ab"})
    assert learned(made, prepared) == [" 4<|im_end|>", "b<|im_end|>"]  # nothing stands before "a"
    assert [made.tokenizer.decode(tree.answers[0]) for tree in prepared.trees] == [
        "2 + 2 = 4<|im_end|>",
        "ab<|im_end|>",
    ]
    chat = completions(plain_text="chat")
    assert learned(chat, prepare(chat, {"prompt": "2 + 2 =", "completion": "4"})) == ["4<|im_end|>"]
    raw = completions(plain_text="raw")
    assert learned(raw, prepare(raw, {"prompt": "2 + 2 =", "completion": " 4"})) == [" 4<|im_end|>"]


def test_what_stands_before_loss_from_is_read_and_not_learned(completions: Make) -> None:
    talk = [TALK[1], {"role": "assistant", "content": " a b b b c"}]
    made = completions()  # the template trims the space; 7 characters into the row's answer is the last " b"
    assert learned(made, prepare(made, {"messages": talk, "loss_from": 8})) == [" c<|im_end|>"]
    raw = completions(template=None)
    assert learned(raw, prepare(raw, {"prompt": "x", "completion": "b b c", "loss_from": 4})) == [
        "c<|im_end|>"
    ]


def test_an_answer_that_the_template_writes_otherwise_later_is_not_learned_in_that_form(
    completions: Make,
) -> None:
    made = completions(FORGETFUL)
    talk = [
        TALK[1],
        {"role": "assistant", "content": "hm|Yes."},
        TALK[3],
        {"role": "assistant", "content": "hm|No."},
    ]
    prepared = prepare(made, {"messages": talk})
    assert learned(made, prepared) == ["hm|No.<|im_end|>"]
    assert prepared.cut == {"earlier answers that the chat template rewrites, not learned": 1}


def test_rows_without_a_stop_or_an_answer_are_counted_and_listed_not_learned(completions: Make) -> None:
    endless = completions(ENDLESS)
    prepared = prepare(endless, {"messages": TALK})
    assert not prepared.trees and list(prepared.dropped) == [
        "the chat template ends an answer with no control token, so there is no stop to learn"
    ]
    made = completions()
    prepared = prepare(
        made,
        {"prompt": "Tea?"},
        {"messages": TALK},
        {"messages": [TALK[1], {"role": "assistant", "content": "\ud800"}]},
    )
    assert len(prepared.trees) == 1
    assert [(row["line"], row["reason"]) for row in prepared.dropped_rows] == [
        (1, "no answer to learn"),
        (3, "lone surrogates in the text"),
    ]


def test_what_is_too_long_is_dropped_or_cut_and_a_lost_stop_is_said(completions: Make) -> None:
    row = {"prompt": "abc", "completion": "defgh"}  # 8 bytes and EOS
    made = completions(template=None, max_length=8)
    assert prepare(made, row).dropped == {"longer than max_length": 1}
    right = completions(template=None, max_length=8, cut="right")
    prepared = prepare(right, row)
    assert learned(right, prepared) == ["defgh"] and not right.stops
    assert prepared.cut == {"answers learned without their stop": 1}
    left = completions(template=None, max_length=8, cut="left")
    prepared = prepare(left, row)
    assert learned(left, prepared) == ["defgh<|im_end|>"] and left.stops == {END: 1}
    assert prepared.cut == {"prompts cut": 1}
    shorter = completions(template=None, max_length=4, cut="left")  # "fgh" and EOS; what f follows is lost
    assert learned(shorter, prepare(shorter, row)) == ["gh<|im_end|>"]
    nothing = completions(template=None, max_length=3, cut="right")
    assert prepare(nothing, row).dropped == {"nothing of an answer is left to learn": 1}
    with pytest.raises(DataError, match=r"a\.jsonl:1: 9 tokens are more than max_length 8"):
        prepare(completions(template=None, max_length=8, cut="error"), row)


def test_conversations_need_a_template_and_plain_text_an_end(
    completions: Make, base_model: Callable[..., Path], byte_tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(
        ModelError, match=r"no chat template for conversations \(a.jsonl:1\).*chat_template_path"
    ):
        prepare(completions(template=None), {"messages": TALK})
    folder = base_model("endless", tokenizer=byte_tokenizer(chat_template=None, eos_token=None))
    loaded = policies.load(PolicySettings(path=str(folder)))
    with pytest.raises(ModelError, match="has no EOS token"):
        prepare(Completions(loaded, loaded.encoder(50)), {"prompt": "a", "completion": "b"})  # type: ignore[arg-type]
