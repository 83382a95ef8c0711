"""Prompts: of rows of any layout, as ids that a policy continues."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import toy
from holdtrue.errors import DataError, SettingsError
from holdtrue.policy.prompts import encode, read_prompts, read_splits
from holdtrue.policy.settings import PromptSettings
from holdtrue.records import Message
from holdtrue.tokens.conversation import Encoder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(toy.write_model(tmp_path_factory.mktemp("toy")))


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows_with_a_prompt_and_rows_of_every_layout_are_read(tokenizer: Any, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "tell about bees ?"}]
    file = write(
        tmp_path / "rows.jsonl",
        {"prompt": "tell about rain ?"},
        {"prompt": chat, "id": 3},
        {"prompt": "tell about chess ?", "chosen": "kind", "rejected": "rude"},
        {"messages": [*chat, {"role": "assistant", "content": "kind"}]},
    )
    read = read_prompts(PromptSettings(prompts=[file]), tokenizer, 128, 12)
    topics = [text[-1].content.split()[2] for text in read.train.texts]
    assert topics == ["rain", "bees", "chess", "bees"] and not read.left_out
    assert tokenizer.decode(read.train.ids[0]) == "user tell about rain ? <|end|>"


def test_raw_text_is_continued_after_the_tokenizers_own_bos(byte_tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    made = byte_tokenizer(bos_token="<|im_start|>")
    plain = encode("hi", Encoder(made, 99)).tolist()
    assert made.decode(plain) == "hi"
    special = [("<|im_start|>", 0), ("<|im_end|>", 1)]
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=special
    )
    assert encode("hi", Encoder(made, 99)).tolist() == [0, *plain]  # and no end of the text


def test_prompts_that_leave_no_room_are_left_out_and_counted(tokenizer: Any, tmp_path: Path) -> None:
    long = {"prompt": "tell " * 50}
    file = write(tmp_path / "rows.jsonl", {"prompt": "tell ?"}, long, {"other": 1}, {"prompt": " "})
    read = read_prompts(PromptSettings(prompts=[file]), tokenizer, 40, 12)
    assert len(read.train) == 1
    assert read.left_out == {
        "layout not recognised": 1,
        "empty prompt": 1,
        "longer than 28 tokens, the context less decoding.max_new_tokens": 1,
    }
    (dropped,) = read.dropped
    assert (dropped["file"], dropped["line"]) == (file, 2) and dropped["reason"].startswith("longer than 28")
    with pytest.raises(SettingsError, match=r"max_new_tokens 40 leaves no room .* context has 40 tokens"):
        read_prompts(PromptSettings(prompts=[file]), tokenizer, 40, 40)
    only = write(tmp_path / "long.jsonl", long)
    with pytest.raises(DataError, match=r"no usable prompt in .*: 1 longer than 28 tokens"):
        read_prompts(PromptSettings(prompts=[only]), tokenizer, 40, 12)


def test_held_out_prompts_are_never_trained_on(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"{a} {b} ?"} for a in toy.TOPICS for b in toy.TOPICS]
    file = write(tmp_path / "rows.jsonl", *rows)
    settings = PromptSettings(prompts=[file], eval_fraction=0.5, eval_prompts=5)
    read = read_prompts(settings, tokenizer, 128, 12)
    assert len(read.held_out) == 5 and 10 < len(read.train) < 26
    assert not set(read.train.texts) & set(read.held_out.texts)
    assert read.train.texts[0][0] == Message("user", read.train.texts[0][0].content)


def test_columns_that_are_no_part_of_the_prompt_stay_beside_it(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        {"prompt": "tell about rain ?", "topic": "rain"},
        {"messages": [{"role": "user", "content": "tell"}, {"role": "assistant", "content": "kind"}], "n": 2},
    )
    found = read_splits(PromptSettings(prompts=[file]), Counter())[0]
    assert [group.meta for group in found] == [{"topic": "rain"}, {"n": 2}]
