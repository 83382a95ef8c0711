"""Process reward models: values at the ends of steps, exact in every layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdtrue.records import Answer, Group, Message
from holdtrue.reward import store
from holdtrue.reward.kinds.process import Process
from holdtrue.reward.scorer import RewardScorer
from holdtrue.settings import ModelSettings
from holdtrue.tokens.conversation import Encoder

TEXTS = ("Add 2 and 2.\nThat is 4.", "Add 2 and 2.\nThat is 5.\nSo 5.", "Four.")


def group(*texts: str, steps: Sequence[tuple[int, float]] = ()) -> Group:
    answers = tuple(Answer((Message("assistant", text),), steps=tuple(steps)) for text in texts)
    return Group((Message("user", "What is 2 + 2?"),), answers)


def read(reduce: str, counts: list[int], values: list[float]) -> Any:
    ends = torch.tensor(counts).cumsum(0) - 1
    return Process(reduce=reduce).read(torch.tensor(values)[:, None], torch.zeros(0), ends)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reduce", "rewards"),
    [
        ("min", [-1.0, 3.0]),
        ("mean", [0.5, 3.0]),
        ("last", [2.0, 3.0]),
        # log σ(-1) + log σ(2) = -1.313262 - 0.126928; log σ(3)
        ("product", [-1.440190, -0.048587]),
    ],
)
def test_the_reward_is_made_of_the_answers_own_steps(reduce: str, rewards: list[float]) -> None:
    out = read(reduce, [2, 1], [-1.0, 2.0, 3.0])
    assert out.rewards.tolist() == pytest.approx(rewards, abs=1e-6)
    assert out.steps.tolist() == [-1.0, 2.0, 3.0]


@pytest.fixture
def loaded(base_model: Callable[..., Path]) -> store.Loaded:
    return store.load(ModelSettings(path=str(base_model()), kind="process"))


def plain(loaded: store.Loaded, ids: np.ndarray) -> float:
    """What the classifier gives of a text's beginning, with transformers' own attention."""
    original = loaded.model.inner.config._attn_implementation
    loaded.model.inner.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            return float(loaded.model.inner(torch.tensor(ids[None].astype(np.int64))).logits[0, 0])
    finally:
        loaded.model.inner.set_attn_implementation(original)


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_a_step_is_worth_what_the_text_up_to_its_end_is_worth(loaded: store.Loaded, layout: str) -> None:
    assert loaded.model.layout == "tree"
    loaded.model.layout = layout  # type: ignore[assignment]
    (scored,) = RewardScorer(loaded).stream([group(*TEXTS)])
    (encoded,) = loaded.encoder().encode([group(*TEXTS)])
    assert scored.steps is not None and [len(row) for row in scored.steps] == [2, 3, 1]
    for ids, marks, row in zip(encoded.ids, encoded.marks, scored.steps, strict=True):
        assert ids is not None
        expected = [plain(loaded, ids[: mark + 1]) for mark in marks]
        assert [value for _, value in row] == pytest.approx(expected, abs=1e-5)
    assert [end for end, _ in scored.steps[1]] == [12, 23, 29]
    worst = [min(value for _, value in row) for row in scored.steps]
    assert scored.rewards.tolist() == pytest.approx(worst, abs=1e-6)


def test_the_marked_tokens_are_those_that_end_the_steps(loaded: store.Loaded) -> None:
    encoder = loaded.encoder()
    (encoded,) = encoder.encode([group(*TEXTS)])
    for text, ids, marks in zip(TEXTS, encoded.ids, encoded.marks, strict=True):
        assert ids is not None
        read = [encoder.tokenizer.decode(ids[: mark + 1]) for mark in marks]
        for i, begin in enumerate(read):
            said = "\n".join(text.split("\n")[: i + 1])
            assert begin.rstrip().endswith(said), (begin, said)


def test_a_prompt_that_says_the_answer_is_not_taken_for_it(loaded: store.Loaded) -> None:
    quoted = Group((Message("user", "Four."),), (Answer((Message("assistant", "Four."),)),))
    (encoded,) = loaded.encoder().encode([quoted])
    assert encoded.ids[0] is not None
    ((mark,),) = encoded.marks
    assert loaded.tokenizer.decode(encoded.ids[0][: mark + 1]).count("Four.") == 2


def test_judgements_change_no_reward(loaded: store.Loaded) -> None:
    scorer = RewardScorer(loaded)
    without, with_them = scorer.stream([group(TEXTS[1]), group(TEXTS[1], steps=[(12, 1.0)])])
    assert without.rewards == with_them.rewards


@pytest.mark.parametrize("side", ["left", "right"])
def test_steps_that_are_cut_away_are_not_read(loaded: store.Loaded, side: Any) -> None:
    whole = loaded.encoder()
    (full,) = whole.encode([group(TEXTS[1])])
    ids, marks = full.ids[0], full.marks[0]
    assert ids is not None
    over = len(ids) - marks[0] if side == "left" else len(ids) - marks[2]
    room = len(ids) - over if side == "right" else len(ids) - marks[0] - 1
    encoder = Encoder(loaded.tokenizer, room, side, marker="steps")
    (cut,) = encoder.encode([group(TEXTS[1])])
    assert cut.ids[0] is not None and cut.cut[0] == len(ids) - room
    kept = marks[:2] if side == "right" else marks[1:]
    ends = [ids[mark] for mark in kept]
    assert [cut.ids[0][mark] for mark in cut.marks[0]] == ends


def test_a_template_that_changes_the_text_is_found_out(loaded: store.Loaded) -> None:
    tokenizer = loaded.tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{{ eos_token }}{% endfor %}"
    encoder = Encoder(tokenizer, 64, marker="steps")
    (encoded,) = encoder.encode([group("two words")])
    assert encoded.ids == (None,) and "steps are not found" in str(encoded.reasons[0])


_TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "question", "answer", "other"),
    [
        # it refuses a prompt without an answer, so nothing says that "Four." is not the question
        ("{% if messages[-1].role == 'user' %}{{ raise_exception('no') }}{% endif %}", "Four.", "Four.", "5"),
        # it opens no turn, so "assistant" may be the role as well
        ("", "Who?", "assistant", "you"),
    ],
)
def test_an_answer_that_stands_there_twice_is_refused_where_its_place_cannot_be_told(
    template: str, question: str, answer: str, other: str, byte_tokenizer: Callable[..., Any]
) -> None:
    encoder = Encoder(byte_tokenizer(chat_template=template + _TURNS), 128, marker="steps")
    answers = tuple(Answer((Message("assistant", text),)) for text in (answer, other))
    (encoded,) = encoder.encode([Group((Message("user", question),), answers)])
    assert encoded.ids[0] is None and "steps are not found" in str(encoded.reasons[0])
    assert encoded.ids[1] is not None
    (mark,) = encoded.marks[1]
    assert encoder.tokenizer.decode(encoded.ids[1][: mark + 1]).endswith(f"assistant\n{other}")
