from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import DataError, ModelError
from holdtrue.records import Answer, Comparison, Group, Message, Source, as_json
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.tokens.conversation import PLAIN_TEMPLATE, Encoder, model_max_length, prepare_tokenizer
from holdtrue.tokens.tree import forest

REAL = {
    "qwen2.5": "data/tokenizers/qwen2.5-instruct",
    "qwen3": "data/tokenizers/qwen3",
    "phi-3": "data/tokenizers/phi-3-mini-instruct",
    "stories260K": "models/stories260K",
}
HARD = [
    *("", " ", "\n", "\n\n", "  leading", "trailing \n", "\t", "\r\n", "a\x00b", "<", "<|im_", "end|>"),
    *(
        "é",
        "e\u0301",
        "\u0301begins with an accent",
        "日本語",
        "👩‍👩‍👧",
        "ﬁ Å １２",
        "\u200b",
        "\ufeff",
        "x\u2028y",
        "\u2581x",
    ),
    *("<|im_end|>", "<|im_start|>user\nhi<|im_end|>", "<s>", "</s>", " <s> ", "<unk>", "<|endoftext|>"),
    *("<|end|>", "<|assistant|>\n", "<think>\n\n</think>\n\nHi", "</think>", "<tool_call>", "[INST]"),
]
texts = st.one_of(
    st.sampled_from(HARD),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.lists(st.sampled_from(HARD), min_size=2, max_size=3).map("".join),
)


def chat(question: str, *answers: str) -> Group:
    return Group(
        (Message("user", question),),
        tuple(Answer((Message("assistant", text),)) for text in answers),
        (Comparison(0, 1),) if len(answers) > 1 else (),
    )


def plain(prompt: str, *answers: str) -> Group:
    return Group(prompt, tuple(Answer(text) for text in answers))


def encode(encoder: Encoder, group: Group) -> list[list[int] | None]:
    (encoded,) = encoder.encode([group])
    return [None if ids is None else ids.tolist() for ids in encoded.ids]


@pytest.fixture(scope="session")
def real(shared: Callable[[str], Path]) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in made:
            from transformers import AutoTokenizer

            with quiet_loading():
                made[name] = AutoTokenizer.from_pretrained(shared(REAL[name]))
            prepare_tokenizer(made[name])
        return made[name]

    return load


def expected(tokenizer: Any, group: Group, answer: int) -> list[int]:
    """The whole rendered text, encoded at once by the tokenizer as a user calls it."""
    text = tokenizer.apply_chat_template(as_json(group.conversation(answer)), tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


@pytest.mark.parametrize("name", list(REAL))
def test_ids_are_those_of_the_whole_rendered_text_on_hard_strings(name: str, real: Any) -> None:
    tokenizer = real(name)
    encoder = Encoder(tokenizer, 100_000)
    for question in HARD:
        group = chat(question, *HARD)
        assert encode(encoder, group) == [expected(tokenizer, group, k) for k in range(len(HARD))]


@pytest.mark.parametrize("name", list(REAL))
@settings(max_examples=60, deadline=None)
@given(turns=st.lists(texts, min_size=1, max_size=3), answers=st.lists(texts, min_size=1, max_size=3))
def test_ids_are_those_of_the_whole_rendered_text(
    name: str, real: Any, turns: list[str], answers: list[str]
) -> None:
    tokenizer = real(name)
    roles = ("user", "assistant")
    group = Group(
        tuple(Message(roles[i % 2], text) for i, text in enumerate(turns)),
        tuple(Answer((Message("assistant", text),)) for text in answers),
    )
    assert encode(Encoder(tokenizer, 100_000), group) == [
        expected(tokenizer, group, k) for k in range(len(answers))
    ]


@pytest.mark.parametrize("name", list(REAL))
def test_no_conversation_begins_with_two_bos(name: str, real: Any) -> None:
    tokenizer = real(name)
    encoder = Encoder(tokenizer, 100_000)
    for text in ("hello", "<s>hello", "<s><s><s>hello", "<s>"):
        for ids in (encode(encoder, chat(text, text))[0], encode(encoder, plain(text, ""))[0]):
            leading = next((i for i, token in enumerate(ids) if token != tokenizer.bos_token_id), len(ids))
            # where BOS and EOS are one token, a text without content is BOS and EOS
            assert leading <= 1 or leading == len(ids) == 2


def test_a_doubled_bos_is_removed_and_counted_once_a_text(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(bos_token="<|im_start|>", chat_template="{{ bos_token }}" * 3 + "x")
    encoder = Encoder(tokenizer, 100)
    assert len(encode(encoder, chat("q", "a"))[0]) == 2
    assert encoder.repaired == {"doubled BOS removed": 1}


def test_plain_text_stands_between_the_tokenizers_own_bos_and_eos(real: Any, byte_tokenizer: Any) -> None:
    stories = real("stories260K")  # adds BOS by itself; its BOS and EOS are both token 1
    ids = encode(Encoder(stories, 512), plain("Once upon", " a time"))[0]
    assert ids == [1, *stories("Once upon a time", add_special_tokens=False).input_ids, 1]
    assert encode(Encoder(stories, 512), plain("", ""))[0] == [1, 1]
    tokenizer = byte_tokenizer()  # adds none
    ids = encode(Encoder(tokenizer, 512), plain("ab", "c"))[0]
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "b", "c", "<|im_end|>"]


def test_plain_text_is_never_put_through_a_template(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(chat_template="{{ raise_exception('no') }}", eos_token=None)
    assert tokenizer.convert_ids_to_tokens(encode(Encoder(tokenizer, 9), plain("a", "b"))[0]) == ["a", "b"]


def test_nothing_at_all_has_no_tokens_and_says_so(byte_tokenizer: Any) -> None:
    (encoded,) = Encoder(byte_tokenizer(eos_token=None), 9).encode([plain("", "", "x")])
    assert encoded.reasons == ("no tokens", None)


def test_what_the_template_refuses_is_a_reason_and_its_neighbours_are_kept(byte_tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('not this\nplease') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    encoder = Encoder(byte_tokenizer(chat_template=template), 100)
    first, second = encoder.encode([chat("q", "bad", "good"), chat("q", "fine")])
    assert first.ids[0] is None and first.ids[1] is not None and second.ids[0] is not None
    assert first.reasons == ("chat template refuses the conversation: not this", None)
    with pytest.raises(DataError, match="not this"):
        encoder.render(chat("q", "bad").conversation(0))


@pytest.mark.parametrize("template", ["{{ messages[7].content }}", "{{ messages[0].content + 1 }}"])
def test_a_template_that_breaks_is_a_reason_too(template: str, byte_tokenizer: Any) -> None:
    (encoded,) = Encoder(byte_tokenizer(chat_template=template), 100).encode([chat("q", "a")])
    assert encoded.ids == (None,)
    assert encoded.reasons[0].startswith("chat template refuses the conversation: ")


def test_lone_surrogates_are_a_reason_and_no_crash(byte_tokenizer: Any) -> None:
    first, second = Encoder(byte_tokenizer(), 100).encode([chat("q", "\ud800", "a"), plain("\udfff", "b")])
    assert first.reasons == ("lone surrogates in the text", None)
    assert second.reasons == ("lone surrogates in the text",)


def test_a_group_without_answers_is_encoded_as_nothing(byte_tokenizer: Any) -> None:
    encoded, after = Encoder(byte_tokenizer(), 100).encode([chat("q"), chat("q", "a")])
    assert encoded.ids == encoded.reasons == encoded.cut == ()
    assert len(after.ids) == 1


def test_groups_come_back_in_order_across_chunks(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer()
    groups = [plain(str(i), "") for i in range(2500)]
    decoded = [tokenizer.decode(item.ids[0][:-1]) for item in Encoder(tokenizer, 100).encode(groups)]
    assert decoded == [str(i) for i in range(2500)]


def test_padding_and_truncation_switched_on_elsewhere_do_not_reach_the_ids(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer()
    encoder = Encoder(tokenizer, 100)
    before = encode(encoder, chat("question", "a", "answer"))
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=3)
    assert encode(encoder, chat("question", "a", "answer")) == before


# "ab" and one answer byte each as plain text: a b x EOS = 4 tokens; with BOS 5
@pytest.mark.parametrize(
    ("truncation", "limit", "kept", "cut"),
    [("left", 3, ["b", "x", "<|im_end|>"], 1), ("right", 3, ["a", "b", "x"], 1), ("right", 4, None, 0)],
)
def test_truncation_keeps_the_side_it_should_and_counts(
    truncation: Any, limit: int, kept: list[str] | None, cut: int, byte_tokenizer: Any
) -> None:
    tokenizer = byte_tokenizer()
    (encoded,) = Encoder(tokenizer, limit, truncation).encode([plain("ab", "x")])
    assert tokenizer.convert_ids_to_tokens(encoded.ids[0]) == (kept or ["a", "b", "x", "<|im_end|>"])
    assert encoded.cut == (cut,) and encoded.reasons == (None,)


def test_cutting_at_the_left_keeps_bos_even_where_only_the_template_writes_it(byte_tokenizer: Any) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
    tokenizer = byte_tokenizer(bos_token="<|im_start|>", chat_template=template)
    (encoded,) = Encoder(tokenizer, 4, "left").encode([chat("abcd", "x")])
    assert tokenizer.convert_ids_to_tokens(encoded.ids[0]) == ["<|im_start|>", "d", "x", "<|im_end|>"]
    assert encoded.cut == (3,)


def test_dropping_says_why_and_an_error_says_where(byte_tokenizer: Any) -> None:
    (encoded,) = Encoder(byte_tokenizer(), 3).encode([plain("ab", "x", "")])
    assert encoded.reasons == ("longer than max_length", None)
    assert encoded.cut == (0, 0)
    group = Group("ab", (Answer("x"),), source=Source("pairs.jsonl", 7))
    with pytest.raises(DataError, match=r"pairs.jsonl:7: conversation of 4 tokens .* max_length 3"):
        list(Encoder(byte_tokenizer(), 3, "error").encode([group]))


@pytest.mark.parametrize("truncation", ["left", "right"])
@settings(max_examples=60, deadline=None)
@given(prompt=st.text("ab", max_size=6), sides=st.lists(st.text("ab", max_size=6), min_size=2, max_size=2))
def test_no_cut_makes_the_sides_of_a_comparison_identical(
    truncation: Any, byte_tokenizer: Any, prompt: str, sides: list[str]
) -> None:
    group = Group(prompt, tuple(Answer(side) for side in sides), (Comparison(0, 1),))
    (encoded,) = Encoder(byte_tokenizer(), 5, truncation).encode([group])
    dropped: list[str] = []
    (trees,) = forest([(group, encoded)], 8, lambda _, reason: dropped.append(reason), Counter()) or ([],)
    assert all(ids is not None and len(ids) <= 5 for ids in encoded.ids)
    assert len(trees) + len(dropped) == 1
    for tree in trees:
        assert not np.array_equal(tree.answers[0], tree.answers[1])
    if sides[0] == sides[1]:
        assert dropped[0].startswith("identical")


def test_a_tokenizer_without_a_template_gets_the_plain_one(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(chat_template=None, bos_token="<|im_start|>")
    assert prepare_tokenizer(tokenizer) == "plain"
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    assert prepare_tokenizer(tokenizer) == "plain"  # also when it was saved and loaded again
    rendered = Encoder(tokenizer, 100).render(chat("Hi", "Hello").conversation(0))
    assert rendered == "<|im_start|>User: Hi\n\nAssistant: Hello<|im_end|>"


def test_the_plain_template_ends_every_conversation_in_one_token_without_eos_too(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(chat_template=None, eos_token=None)
    prepare_tokenizer(tokenizer)
    last = {ids[-1] for ids in encode(Encoder(tokenizer, 100), chat("Hi", "Hello", "", "x\n"))}
    assert tokenizer.convert_ids_to_tokens(sorted(last)) == ["Ċ"]


def test_a_template_file_replaces_the_tokenizers_own(byte_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }}!")
    tokenizer = byte_tokenizer()
    assert prepare_tokenizer(tokenizer, str(file)) == "file"
    assert Encoder(tokenizer, 100).render(chat("é", "a").conversation(0)) == "é!"
    file.write_bytes(b"\xff\xfe")
    for broken in (file, tmp_path / "none", tmp_path):
        with pytest.raises(ModelError, match=r"chat template .* cannot be read"):
            prepare_tokenizer(tokenizer, str(broken))


def test_of_several_named_templates_the_default_is_taken(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(chat_template={"default": "default", "tool_use": "tools"})
    assert prepare_tokenizer(tokenizer) == "own"
    assert tokenizer.chat_template == "default"


@pytest.mark.parametrize("name", list(REAL))
def test_the_span_holds_the_answer_and_what_the_template_writes_after_it(name: str, real: Any) -> None:
    tokenizer = real(name)
    encoder = Encoder(tokenizer, 100_000)
    group = chat("What is it?", "Nothing at all", "日本語 👩‍👩‍👧")
    for k, ids in enumerate(encode(encoder, group)):
        start, end = encoder.answer_span(group, k)
        assert end == len(ids)
        assert group.answers[k].text in tokenizer.decode(ids[start:end])
        assert group.answers[k].text not in tokenizer.decode(ids[:start])
        assert "What is it?" in tokenizer.decode(ids[:start])


@pytest.mark.parametrize("prompt", ["Once upon", "<s>Once upon", "<s><s>Once upon"])
def test_the_span_of_plain_text_counts_bos_as_it_stands_in_the_ids(prompt: str, real: Any) -> None:
    tokenizer = real("stories260K")
    encoder = Encoder(tokenizer, 512)
    group = plain(prompt, " a time")
    ids = encode(encoder, group)[0]
    start, end = encoder.answer_span(group, 0)
    assert end == len(ids)
    assert tokenizer.decode(ids[start : end - 1]).strip() == "a time"


def test_where_the_prompt_alone_is_refused_all_of_the_conversation_is_the_answer(byte_tokenizer: Any) -> None:
    encoder = Encoder(byte_tokenizer(), 100)
    group = Group((), (Answer((Message("assistant", "a"),)),))
    assert encoder.answer_span(group, 0) == (0, len(encode(encoder, group)[0]))


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"SimpleNamespace is not a fast tokenizer; .*tokenizer.json"):
        Encoder(SimpleNamespace(is_fast=False), 10)


def limits(tokens: int, **config: Any) -> int | None:
    from transformers import AutoConfig

    made = AutoConfig.for_model(config.pop("model_type", "llama"), **config)
    return model_max_length(made, SimpleNamespace(model_max_length=tokens))


def test_a_text_may_be_as_long_as_the_smaller_of_positions_and_tokenizer() -> None:
    assert limits(100, max_position_embeddings=512) == 100
    assert limits(1000, max_position_embeddings=512) == 512
    assert limits(10**30, max_position_embeddings=512) == 512
    assert limits(10**30, model_type="gpt2", n_positions=64) == 64
    assert limits(77, model_type="bloom") == 77
    assert limits(10**30, model_type="bloom") is None


def test_longrope_is_held_to_its_original_context() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 128}
    found = limits(
        10**30,
        model_type="phi3",
        rope_parameters={**rope, "original_max_position_embeddings": 32},
        original_max_position_embeddings=32,
        **sizes,
    )
    assert found == 32
    assert limits(10**30, model_type="phi3", **sizes) == 128


def test_a_prompt_that_the_template_does_not_write_alone_has_no_last_token(byte_tokenizer: Any) -> None:
    template = "{% if messages[-1].role == 'user' %}{{ raise_exception('no') }}{% endif %}{{ messages }}"
    encoder = Encoder(byte_tokenizer(chat_template=template), 512, marker="prompt")
    chat = Group((Message("user", "Why?"),), (Answer((Message("assistant", "So."),)),))
    plain = Group("Why?", (Answer(" So."),))
    refused, found = encoder.encode([chat, plain])
    assert refused.ids == (None,) and refused.reasons == ("the chat template refuses the prompt alone",)
    assert found.marks == ((3,),)
