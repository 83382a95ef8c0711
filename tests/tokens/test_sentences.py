"""Texts and pairs for encoders: the ids of the tokenizer's own call, cut without touching special tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encoders import FAMILIES, TYPED, tokenizer
from holdtrue.errors import DataError, ModelError, SettingsError
from holdtrue.records import Answer, Group, Message
from holdtrue.tokens.batches import pad
from holdtrue.tokens.sentences import SentenceEncoder, parts_pairs, separator, side, turns
from holdtrue.tokens.tree import grow

PAD, CLS, SEP = 0, 1, 2
every_family = pytest.mark.parametrize("family", list(FAMILIES))


def group(prompt: str = "How are you?", *answers: str) -> Group:
    return Group(
        (Message("user", prompt),),
        tuple(Answer((Message("assistant", text),)) for text in answers or ("Fine.", "Fine, thank you!")),
    )


def ids_of(encoder: SentenceEncoder, item: Group) -> list[Any]:
    return [None if ids is None else ids.tolist() for ids in next(iter(encoder.encode([item]))).ids]


@every_family
def test_a_pair_has_the_ids_and_types_of_the_tokenizers_own_call(family: str) -> None:
    made = tokenizer(family)
    encoder = SentenceEncoder(made, 100)
    item = group()
    expected = [made(side(item.prompt), side(answer.content)) for answer in item.answers]
    assert ids_of(encoder, item) == [own["input_ids"] for own in expected]
    mark = separator(made)
    assert (mark is not None) == (family in TYPED)
    if mark is not None:
        found = pad([grow([np.array(own["input_ids"], np.int32)]) for own in expected], PAD, separator=mark)
        for row, own in zip(found.token_type_ids.tolist(), expected, strict=True):
            assert row[: len(own["input_ids"])] == own["token_type_ids"]


@every_family
def test_a_text_has_the_ids_of_the_tokenizers_own_call(family: str) -> None:
    made = tokenizer(family)
    expected = [made(f"User: How are you?\n\nAssistant: {text}")["input_ids"] for text in ("Fine.", "Ok")]
    assert ids_of(SentenceEncoder(made, 100, input="text"), group("How are you?", "Fine.", "Ok")) == expected


def test_several_turns_are_marked_by_their_roles_and_plain_strings_stand_as_they_are() -> None:
    chat = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert side(chat) == turns(chat) == "User: a\n\nAssistant: b\n\nUser: c"
    assert (side(chat[:1]), side("raw")) == ("a", "raw")
    made = tokenizer("bert")
    raw = Group("Question ", (Answer("answer"),))
    assert ids_of(SentenceEncoder(made, 100), raw) == [made("Question ", "answer")["input_ids"]]
    assert ids_of(SentenceEncoder(made, 100, input="text"), raw) == [made("Question answer")["input_ids"]]


def test_a_special_token_in_a_text_is_read_as_text() -> None:
    made = tokenizer("bert")
    ids = ids_of(SentenceEncoder(made, 100), group("Say <sep>", "<cls>", "no"))
    assert [own.count(SEP) for own in ids] == [2, 2] and [own.count(CLS) for own in ids] == [1, 1]
    assert made("<sep>")["input_ids"] == [CLS, SEP, SEP]  # the tokenizer itself is left as it was


# "abcdef" and "123" are 6 and 3 tokens; with three special ones 12 in all
@pytest.mark.parametrize(
    ("truncation", "max_length", "prompt", "answer"),
    [
        ("left", 10, "cdef", "123"),
        ("right", 11, "abcdef", "12"),
        ("left", 5, "", "23"),
        ("left", 12, "abcdef", "123"),
    ],
)
def test_truncation_takes_from_the_prompts_start_or_the_answers_end_and_no_special_token(
    truncation: Any, max_length: int, prompt: str, answer: str
) -> None:
    made = tokenizer("bert")
    encoded = next(iter(SentenceEncoder(made, max_length, truncation).encode([group("abcdef", "123", "4")])))
    assert encoded.ids[0].tolist() == made(prompt, answer)["input_ids"]
    assert encoded.cut[0] == 12 - max_length


def test_what_is_too_long_is_left_out_or_an_error_as_told() -> None:
    made = tokenizer("bert")
    encoded = next(iter(SentenceEncoder(made, 11).encode([group("abcdef", "123", "4")])))
    assert encoded.reasons == ("longer than max_length", None)
    with pytest.raises(DataError, match="conversation of 12 tokens is longer than max_length 11"):
        ids_of(SentenceEncoder(made, 11, "error"), group("abcdef", "123"))
    with pytest.raises(SettingsError, match="max_length 3 leaves no room beside 3 special tokens"):
        SentenceEncoder(made, 3)


def test_lone_surrogates_are_a_reason() -> None:
    encoder = SentenceEncoder(tokenizer("bert"), 100)
    assert next(iter(encoder.encode([group("a\ud800", "b")]))).reasons == ("lone surrogates in the text",)
    assert next(iter(encoder.encode([group("a", "b\ud800", "c")]))).reasons[1] is None


def test_truncation_goes_on_in_the_other_text_when_one_is_used_up() -> None:
    encoder = SentenceEncoder(tokenizer("bert"), 8, "right")
    encoded = next(iter(encoder.encode([group("abcdef", "123", "4")])))
    assert encoder.tokenizer.decode(encoded.ids[0]) == "<cls>abcde<sep><sep>"
    assert encoded.cut == (4, 2)


@pytest.mark.parametrize("input", ["pair", "text"])
def test_the_answers_span_holds_its_tokens_and_the_special_ones_that_end_it(input: Any) -> None:
    made = tokenizer("bert")
    encoder = SentenceEncoder(made, 100, input=input)
    start, end = encoder.answer_span(group(), 0)
    ids = next(iter(encoder.encode([group()]))).ids[0]
    assert made.decode(ids[start:end]) == "Fine.<sep>" and end == len(ids)


def test_token_types_that_follow_from_no_separator_are_refused() -> None:
    from tokenizers import processors

    made = tokenizer("bert")
    assert parts_pairs(made)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="<sep>:0 $A:0 <sep>:0 $B:1", special_tokens=[("<sep>", SEP)]
    )
    with pytest.raises(ModelError, match=r"gives token types \[0, 0, 0, 1\]; set model\.input: text"):
        separator(made)


def test_a_tokenizer_that_sets_nothing_between_two_texts_parts_no_pairs() -> None:
    from tokenizers import processors

    made = tokenizer("bert")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A:0 $B:0", special_tokens=[]
    )
    assert not parts_pairs(made) and separator(made) is None
