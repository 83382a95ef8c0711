"""What a row of data is."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.records import Answer, Comparison, Group, Message, Messages, as_json, content_hash, flatten

USER, ASSISTANT = Message("user", "2 + 2?"), Message("assistant", "4")
turns = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=8)), max_size=4
).map(tuple)


def test_an_answers_text_is_its_turns_joined_by_blank_lines() -> None:
    assert Answer((ASSISTANT, USER)).text == "4\n\n2 + 2?"
    assert Answer("plain").text == "plain"


def test_roles_are_shown_only_where_there_are_several_turns() -> None:
    assert Group((USER,), ()).prompt_text == "2 + 2?"
    assert Group((Message("system", "Be brief."), USER), ()).prompt_text == (
        "[system] Be brief.\n\n[user] 2 + 2?"
    )
    assert flatten((), roles=True) == ""


def test_a_conversation_is_prompt_and_answer_joined() -> None:
    assert Group((USER,), (Answer("x"), Answer((ASSISTANT,)))).conversation(1) == (USER, ASSISTANT)
    assert Group("2 + 2 =", (Answer(" 4"),)).conversation(0) == "2 + 2 = 4"


def test_a_comparison_is_by_default_a_clear_win_counted_once() -> None:
    assert dataclasses.astuple(Comparison(0, 1)) == (0, 1, 1.0, 1.0, None, None)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        USER.role = "system"  # type: ignore[misc]


def test_messages_are_written_as_transformers_takes_them() -> None:
    assert as_json((USER,)) == [{"role": "user", "content": "2 + 2?"}]
    assert as_json("plain") == "plain"


def test_the_hash_is_the_start_of_the_sha256_of_the_compact_json() -> None:
    data = b'[{"role":"user","content":"\\u00e9"}]'
    assert content_hash((Message("user", "é"),)) == hashlib.sha256(data).hexdigest()[:16]


def test_the_prompt_key_is_the_same_in_another_process() -> None:
    program = "from holdtrue.records import *; print(Group((Message('user', '2 + 2?'),), ()).prompt_key)"
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == Group((USER,), (Answer("any"),), meta={"a": 1}).prompt_key


def test_lone_surrogates_can_be_hashed() -> None:
    assert content_hash("\ud800") != content_hash("\ud801")


@given(turns, turns)
def test_keys_are_equal_exactly_when_the_prompts_are(one: Messages, other: Messages) -> None:
    assert (Group(one, ()).prompt_key == Group(other, ()).prompt_key) == (one == other)


def test_texts_without_a_prompt_do_not_count_as_answers_to_one_prompt() -> None:
    one, other = (Group("", (Answer(f"{n} a"), Answer(f"{n} b"))) for n in range(2))
    assert one.prompt_key != other.prompt_key
    assert one.prompt_key == Group("", (Answer("0 a"), Answer("0 b"))).prompt_key
