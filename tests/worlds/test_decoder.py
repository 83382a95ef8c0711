"""The word-level tokenizer gives back what it is given, and the tiny decoder learns in seconds."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.errors import Interrupted
from holdtrue.worlds import decoder, lexicon
from holdtrue.worlds.support import SupportWorld

WORLD = SupportWorld()
TOKENIZER: Any = decoder.build_tokenizer(lexicon.vocabulary())
CHAT = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "I am glad to help."}]


def round_trip(text: str) -> str:
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.unk_token_id not in ids
    return str(TOKENIZER.decode(ids))


def test_every_conversation_of_the_world_comes_back_as_it_was() -> None:
    for conversation in islice(WORLD.conversations(Random(0)), 300):
        for message in conversation:
            assert round_trip(message.content) == message.content
        chat = [{"role": m.role, "content": m.content} for m in conversation]
        text = TOKENIZER.apply_chat_template(chat, tokenize=False)
        assert round_trip(text) == text
        assert len(TOKENIZER(text)["input_ids"]) <= decoder.CONTEXT


@given(
    st.lists(
        st.tuples(
            st.sampled_from(lexicon.vocabulary()),
            st.sampled_from([" ", ". ", ", ", "\n", "  ", "! ", "\n\n"]),
        )
    )
)
def test_known_words_come_back_whatever_stands_between_them(parts: list[tuple[str, str]]) -> None:
    text = "".join(word + gap for word, gap in parts)
    assert round_trip(text) == text


def test_the_chat_form_is_chatml() -> None:
    assert TOKENIZER.apply_chat_template(CHAT, tokenize=False) == (
        "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\nI am glad to help.<|im_end|>\n"
    )
    opened = TOKENIZER.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert opened == "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"


def test_special_tokens_are_single_distinct_and_never_added() -> None:
    assert TOKENIZER.convert_tokens_to_ids(list(decoder.SPECIAL)) == [0, 1, 2, 3]
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token, TOKENIZER.bos_token) == ("<pad>", "<|im_end|>", None)
    assert TOKENIZER("<|im_start|>user")["input_ids"] == [2, TOKENIZER.convert_tokens_to_ids("user")]
    assert TOKENIZER.decode([2, 3, 0], skip_special_tokens=True) == ""
    assert set(TOKENIZER.all_special_ids) == {0, 1, 2, 3}


def test_a_word_nobody_knows_is_unknown_and_its_neighbours_are_not() -> None:
    ids = TOKENIZER("Hello zebra help")["input_ids"]
    assert [i == TOKENIZER.unk_token_id for i in ids] == [False, True, False]


def test_padding_changes_no_loss() -> None:
    model, _ = WORLD.train_policy(seed=0, steps=1)
    short, long = sorted(islice(WORLD.conversations(Random(0)), 2), key=lambda c: len(c[1].content))
    with torch.no_grad():
        alone = [decoder.answer_loss(model, TOKENIZER, [c]) for c in (short, long)]
        together = decoder.answer_loss(model, TOKENIZER, [short, long])
    weights = torch.tensor([len(TOKENIZER(c[1].content)["input_ids"]) + 1.0 for c in (short, long)])
    expected = (torch.stack(alone) * weights).sum() / weights.sum()
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


def test_the_decoder_learns_within_sixty_steps_and_leaves_torch_as_it_was() -> None:
    held_out = list(islice(WORLD.conversations(Random(99)), 64))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first, _ = WORLD.train_policy(seed=0, steps=1)
    model, _ = WORLD.train_policy(seed=0, steps=60)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert 100_000 < sum(p.numel() for p in model.parameters()) < 200_000
    with torch.no_grad():
        before, after = (decoder.answer_loss(m, TOKENIZER, held_out).item() for m in (first, model))
    assert before > 3  # a uniform guess over the vocabulary costs 6.3 nats
    assert after < 0.9


def test_training_asks_before_each_step_whether_to_stop_and_leaves_torch_as_it_was() -> None:
    threads, asked = torch.get_num_threads(), iter([False, False, True])
    with pytest.raises(Interrupted, match="stopped after step 2 of 300"):
        WORLD.train_policy(stop=lambda: next(asked))
    assert torch.get_num_threads() == threads and not list(asked)


def test_the_number_of_threads_changes_no_weight() -> None:
    threads = torch.get_num_threads()
    try:
        weights = []
        for count in (1, 2):
            torch.set_num_threads(count)
            model, _ = WORLD.train_policy(seed=3, steps=4)
            weights.append(model.state_dict())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_saved_policy_is_read_by_plain_transformers_and_stops(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    WORLD.write(tmp_path, pairs=4, eval_pairs=2, steps=60)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert tokenizer.chat_template == decoder.CHATML and tokenizer.eos_token == "<|im_end|>"
    assert not list((tmp_path / "policy").glob("*.bin"))
    prompt = WORLD.sample_prompt(Random(0), "eval")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer(text, return_tensors="pt")
    ids = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=False,
        max_new_tokens=70,
    )[0]
    assert ids[-1] == tokenizer.eos_token_id
    assert len(lexicon.words(tokenizer.decode(ids[inputs["input_ids"].shape[1] :]))) >= 3
