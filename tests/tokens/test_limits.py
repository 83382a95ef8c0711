"""What makes ids and limits independent of neighbours and of the day."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from holdtrue.records import Answer, Group, Message
from holdtrue.reward.scorer import _portions
from holdtrue.tokens.batches import fill_rectangles
from holdtrue.tokens.conversation import Encoder, model_max_length
from holdtrue.tokens.tree import grow


@pytest.mark.parametrize(
    ("rope", "expected"), [("default", 4096), ("longrope", 64), ("dynamic", 64), ("yarn", 4096)]
)
def test_rotary_embeddings_that_look_at_the_longest_text_are_read_to_their_original_length(
    rope: str, expected: int
) -> None:
    text = SimpleNamespace(
        max_position_embeddings=4096,
        rope_parameters={"rope_type": rope, "original_max_position_embeddings": 64},
    )
    config = SimpleNamespace(get_text_config=lambda: text)
    assert model_max_length(config, SimpleNamespace(model_max_length=10**30)) == expected


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(
    byte_tokenizer: Callable[..., Any],
) -> None:
    template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    encoder = Encoder(byte_tokenizer(chat_template=template), 100)
    group = Group((Message("user", "hi"),), (Answer((Message("assistant", "yo"),)),))
    assert encoder.render(group.conversation(0)) == "26 Jul 2024hiyo"


def test_answers_of_one_prompt_are_portioned_by_tokens_counting_the_prompt_once() -> None:
    prompt = np.arange(10, dtype=np.int32)
    items = [(bytes([k]), np.concatenate([prompt, np.full(5, 50 + k, np.int32)])) for k in range(4)]
    assert [len(p) for p in _portions(items, budget=20)] == [2, 2]  # 10 + 5 + 5 = 20
    assert [len(p) for p in _portions(items, budget=19)] == [1, 1, 1, 1]
    assert [len(p) for p in _portions(items, budget=1000)] == [4]


def test_rectangles_cost_their_longest_row_times_their_rows() -> None:
    batches = fill_rectangles([10, 100, 12, 11], [2, 2, 2, 2], budget=200)
    assert batches == [[1], [2, 3, 0]]  # 2·100 = 200; 6·12 = 72


def test_a_tree_holds_its_own_tokens_and_no_longer_arrays() -> None:
    ids = np.arange(1000, dtype=np.int32)
    tree = grow([np.concatenate([ids, [1]]).astype(np.int32), np.concatenate([ids, [2]]).astype(np.int32)])
    assert tree.prompt.base is None and all(answer.base is None for answer in tree.answers)
