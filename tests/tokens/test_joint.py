"""A prompt and two answers in one sequence, and trees of such sequences."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import comparing
from comparing import group
from holdtrue.errors import DataError, ModelError, SettingsError
from holdtrue.records import Comparison, Group
from holdtrue.reward.kinds.preference_lm import PreferenceLm
from holdtrue.tokens import joint
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.joint import MARKERS, MarkedPairs, WrittenPairs

BOTH = [(0, 1), (1, 0)]


def marked(max_length: int = 128, **options: Any) -> MarkedPairs:
    tokenizer = comparing.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})
    return MarkedPairs(tokenizer, max_length, **options)


def written(max_length: int = 128, truncation: Any = "drop", chat: bool = True) -> WrittenPairs:
    tokenizer = comparing.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    kind = PreferenceLm()
    encoder = Encoder(tokenizer, max_length, truncation, reply=True)
    return WrittenPairs(encoder, lambda g, order: kind.question(g, order, chat), chat)


def words(encoder: Any, ids: Any) -> str:
    return " ".join(encoder.tokenizer.convert_ids_to_tokens(ids.tolist()))


def grown(encoder: Any, *groups: Group, both: bool = True, most: int = 8) -> Any:
    dropped: list[str] = []
    cut = Counter[str]()
    trees = joint.forest(groups, encoder, both, most, lambda _, reason: dropped.append(reason), cut)
    return trees, dropped, cut


def test_a_comparison_is_a_source_and_two_candidates_behind_markers() -> None:
    encoder = marked()
    (encoded,) = encoder.encode([(group("kind", "rude cold"), BOTH)])
    assert [words(encoder, ids) for ids in encoded.ids] == [
        "[CLS] <|source|> tell about rain ? [SEP] <|candidate1|> kind [SEP] <|candidate2|> rude cold [SEP]",
        "[CLS] <|source|> tell about rain ? [SEP] <|candidate1|> rude cold [SEP] <|candidate2|> kind [SEP]",
    ]


def test_markers_and_separators_in_a_text_are_text() -> None:
    encoder = marked()
    (encoded,) = encoder.encode([(group("kind <|candidate2|> warm [SEP]", "rude"), BOTH)])
    for ids in encoded.ids:
        text = words(encoder, ids)
        assert [text.count(marker) for marker in MARKERS] == [1, 1, 1] and text.count("[SEP]") == 3
        assert "kind <|unk|> warm [SEP]" in text


def test_the_tokenizer_is_left_as_it_was() -> None:
    encoder = marked()
    next(encoder.encode([(group("kind", "rude"), BOTH)]))
    assert encoder.tokenizer.convert_ids_to_tokens(encoder.tokenizer("[SEP]").input_ids) == ["[SEP]"]


LONG = group("kind " * 9, "rude warm", prompt="tell about rain and bread and chess ?")


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [
        # 20 tokens: 7 are markers and separators, 13 remain; two candidates of 4 leave 5 for the source of
        # 8, which takes them all, so candidates stay at 4
        ("right", "[CLS] <|source|> tell about rain and bread [SEP] <|candidate1|> kind kind kind kind"),
        ("left", "[CLS] <|source|> and bread and chess ? [SEP] <|candidate1|> kind kind kind kind"),
    ],
)
def test_truncation_cuts_each_part_to_its_share(truncation: Any, expected: str) -> None:
    encoder = marked(20, truncation=truncation)
    (encoded,) = encoder.encode([(LONG, BOTH)])
    assert words(encoder, encoded.ids[0]) == f"{expected} [SEP] <|candidate2|> rude warm [SEP]"
    assert encoded.cut == (26 - 18, 26 - 18)  # 7 + 8 + 9 + 2 tokens, of which 18 are left


def test_what_the_source_does_not_need_goes_to_the_candidates_in_halves() -> None:
    encoder = marked(20, truncation="right", candidate_length=3)
    (encoded,) = encoder.encode([(group("kind " * 9, "rude " * 9, prompt="tell"), BOTH)])
    # 13 - 6 = 7 for the source, which has 1; 3 + 6 // 2 = 6 for each candidate
    assert words(encoder, encoded.ids[0]).count("kind") == 6
    assert words(encoder, encoded.ids[1]).count("kind") == 6  # whatever the order
    assert len(encoded.ids[0]) == 20


def test_what_is_too_long_is_left_out_with_its_reason_or_an_error() -> None:
    (encoded,) = marked(20).encode([(LONG, BOTH)])
    assert encoded.ids == (None, None) and set(encoded.reasons) == {"longer than max_length"}
    with pytest.raises(DataError, match="6 tokens longer than max_length 20"):
        next(marked(20, truncation="error").encode([(LONG, BOTH)]))
    (encoded,) = marked(10, truncation="left", candidate_length=2).encode([(LONG, BOTH)])
    assert set(encoded.reasons) == {"no room for two candidates"}


def test_candidates_that_truncation_makes_equal_are_left_out() -> None:
    alike = group("kind " * 9 + "warm", "kind " * 9 + "cold")
    (encoded,) = marked(20, truncation="right").encode([(alike, BOTH)])
    assert set(encoded.reasons) == {"identical after truncation"}


def test_a_tokenizer_without_a_separator_is_refused() -> None:
    with pytest.raises(ModelError, match="neither a separator nor an EOS"):
        MarkedPairs(comparing.tokenizer(sep_token=None, eos_token=None), 20)


def test_a_question_is_a_user_turn_and_the_opening_of_the_reply() -> None:
    encoder = written()
    (encoded,) = encoder.encode([(group("kind", "rude"), BOTH)])
    assert [words(encoder, ids) for ids in encoded.ids] == [
        "user [CONTEXT] tell about rain ? [RESPONSE A] kind [RESPONSE B] rude assistant",
        "user [CONTEXT] tell about rain ? [RESPONSE A] rude [RESPONSE B] kind assistant",
    ]


def test_an_encoder_decoder_is_asked_in_plain_text_that_ends_in_eos() -> None:
    encoder = written(chat=False)
    (encoded,) = encoder.encode([(group("kind", "rude", prompt="tell\nabout"), [(0, 1)])])
    assert words(encoder, encoded.ids[0]) == (
        "POST: tell about RESPONSE A: kind RESPONSE B: rude Which response is better? RESPONSE <|end|>"
    )


@pytest.mark.parametrize("truncation", ["left", "right"])
def test_a_question_is_never_cut(truncation: Any) -> None:
    with pytest.raises(SettingsError, match="with preference_lm it is drop or error"):
        written(truncation=truncation)


def test_texts_with_braces_are_taken_as_they_are() -> None:
    asked = PreferenceLm().question(group("{first}", "{"), (0, 1), True)
    assert asked == "[CONTEXT] tell about rain ? [RESPONSE A] {first} [RESPONSE B] { \n"


def test_both_orders_are_leaves_of_one_tree_and_one_comparison() -> None:
    said = replace(group("kind", "rude"), comparisons=(Comparison(0, 1, label=0.75, weight=2, margin=0.5),))
    ((tree,),), dropped, cut = grown(written(), said)
    assert tree.count("comparison") == 1 and len(tree.answers) == 2
    assert tree.first.tolist() == tree.second.tolist() == [0, 1]
    assert tree.label.tolist() == [0.75, 0.25]  # P(the answer shown first is preferred)
    assert tree.weight.tolist() == [2, 2] and tree.margin.tolist() == [0.5, 0.5]
    assert not dropped and not cut
    assert words(written(), tree.prompt) == "user [CONTEXT] tell about rain ? [RESPONSE A]"


def test_one_order_is_the_texts_choice_and_not_the_raters() -> None:
    one, other = group("kind", "rude"), group("rude", "kind")
    swapped = replace(one, comparisons=(Comparison(1, 0),))
    ((tree,),), *_ = grown(marked(), one, both=False)
    ((same,),), *_ = grown(marked(), swapped, both=False)
    ((again,),), *_ = grown(marked(), other, both=False)
    assert np.array_equal(tree.answers[0], same.answers[0])
    assert np.array_equal(tree.answers[0], again.answers[0])
    assert tree.label[0] + same.label[0] == 1 and tree.label[0] + again.label[0] == 1


def test_the_chosen_answer_stands_first_about_as_often_as_second() -> None:
    groups = [group(f"kind {k}", f"rude {k}", prompt=f"tell {k}") for k in range(200)]
    trees, *_ = grown(marked(), *groups, both=False)
    assert 70 < sum(int(tree.label[0]) for (tree,) in trees) < 130  # six standard deviations each way


def test_comparisons_of_one_prompt_share_trees_of_bounded_size() -> None:
    groups = [group(f"{'kind ' * k}", "rude") for k in range(1, 6)]
    (trees,), *_ = grown(written(), *groups, most=4)
    assert [len(tree.answers) for tree in trees] == [4, 4, 2]
    assert [tree.count("comparison") for tree in trees] == [2, 2, 1]


def test_what_cannot_be_used_is_dropped_once_per_comparison() -> None:
    trees, dropped, cut = grown(
        marked(20),
        LONG,
        group("kind", "kind"),
        group("kind", "rude", compared=False),
        group("kind \ud800", "rude"),
        group("kind", "rude"),
    )
    assert dropped == [
        "identical sides",
        "no comparison",
        "longer than max_length",
        "lone surrogates in the text",
    ]
    assert len(trees) == 1 and not cut


def test_truncated_comparisons_are_counted() -> None:
    _, dropped, cut = grown(marked(20, truncation="left"), LONG, group("kind", "rude"))
    assert not dropped and cut == {"comparisons truncated": 1}
