"""Why an answer scored as it did: spans that cover the text, values that are differences of rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from holdtrue.evaluation import evaluate
from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.reward import explanation, store
from holdtrue.reward.explanation import explain_mistakes, sentences, way
from holdtrue.reward.scorer import RewardScorer, Scored
from holdtrue.settings import EvaluationSettings, ModelSettings

WORTH = {"good": 2.0, "bad": -3.0, "fine": 0.5}


class Words:
    """Rewards an answer by its words; one of more than 99 characters gets none."""

    chunk = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, groups: Sequence[Group]) -> list[NDArray[np.float32]]:
        return [scored.rewards for scored in self.stream(groups)]

    def stream(self, groups: Iterable[Group]) -> Iterator[Scored]:
        for group in groups:
            texts = [answer.text for answer in group.answers]
            self.asked += texts
            rewards = [sum(WORTH.get(word.strip(".!"), 0.0) for word in text.split()) for text in texts]
            reasons = tuple("too long" if len(text) > 99 else None for text in texts)
            yield Scored(np.array(rewards, dtype=np.float32), reasons)


def chat(*answers: str) -> Group:
    made = tuple(Answer((Message("assistant", text),)) for text in answers)
    return Group((Message("user", "How is it?"),), made, (Comparison(0, 1),))


def explained(scorer: Any, *groups: Group) -> dict[str, Any]:
    rewards = scorer.score(groups)
    result = evaluate(groups, rewards, EvaluationSettings(), "here", {})
    return explain_mistakes(scorer, groups, result["mistakes"])


def test_a_sentence_is_worth_what_the_reward_loses_without_it() -> None:
    scorer = Words()
    found = explained(scorer, chat("It is bad. But fine! So so", "good."))
    (row,) = found["mistakes"]
    assert row["explanation"] == {
        "spans": [[[0, 10, -3.0], [11, 20, 0.5], [21, 26, 0.0]], []],
        "reasons": [None, "a single sentence"],
    }
    # both answers, and the three that lack a sentence beside the other one
    assert found["explained"] == {"how": "sentences", "pairs": 1, "answers_scored": 5}
    assert scorer.asked[2::2] == [
        "It is bad. But fine! So so",
        "But fine! So so",
        "It is bad. So so",
        "It is bad. But fine!",
    ]
    assert set(scorer.asked[3::2]) == {"good."}


def test_the_preferred_answer_comes_first_whatever_its_place() -> None:
    group = replace(chat("good.", "other", "bad. fine."), comparisons=(Comparison(2, 0),))
    (row,) = explained(Words(), group)["mistakes"]
    assert (row["group"], row["answers"]) == (0, [2, 0])
    assert row["explanation"]["spans"] == [[[0, 4, -3.0], [5, 10, 0.5]], []]


def test_only_the_ten_hardest_mistakes_are_explained_and_no_mistake_costs_nothing() -> None:
    found = explained(Words(), *(chat("bad. fine.", "good. " * n) for n in range(1, 13)))
    assert ["explanation" in row for row in found["mistakes"]] == [True] * 10 + [False] * 2
    assert found["explained"]["pairs"] == 10
    assert explained(Words(), chat("good.", "bad.")) == {"mistakes": [], "explained": None}


def test_an_answer_that_cannot_be_explained_says_why() -> None:
    turns = (Message("assistant", "bad. bad."), Message("user", "What?"), Message("assistant", "Yes. No."))
    group = Group((Message("user", "Hm?"),), (Answer(turns), Answer((Message("assistant", "fine."),))))
    (row,) = explained(Words(), replace(group, comparisons=(Comparison(0, 1),)))["mistakes"]
    assert row["explanation"]["reasons"] == ["an answer of several turns", "a single sentence"]

    long = "It is fine. " * 9
    (both,) = explanation.explain(Words(), [chat(long, "good.")]).pairs
    assert (both[0].spans, both[0].reason) == ((), "too long")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [""]),
        ("One", ["One"]),
        ("One. Two?  Three", ["One. ", "Two?  ", "Three"]),
        ("Pi is 3.14. “Yes.” No", ["Pi is 3.14. ", "“Yes.” ", "No"]),
        ("List:\n1. One\n\n2. Two\n", ["List:\n", "1. One\n\n", "2. Two\n"]),
        ("是的。不是。", ["是的。", "不是。"]),
        ("... 12. 13.", ["... 12. 13."]),
    ],
)
def test_a_text_is_split_after_sentences_and_lines(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == parts


def test_long_texts_have_at_most_twelve_parts_that_together_are_the_text() -> None:
    text = "".join(f"Sentence {'very ' * (n % 5)}{n}. " for n in range(70))
    parts = sentences(text)
    assert len(parts) == 12
    assert "".join(text[start:end] for start, end in parts) == text
    assert all(text[start:end].startswith("Sentence") for start, end in parts)


TEXTS = ("Añb 😀 c.\nd", "No.")


def load(base_model: Callable[..., Path], kind: str) -> store.Loaded:
    return store.load(ModelSettings(path=str(base_model()), kind=kind))


@pytest.mark.parametrize("layout", ["tree", "padded"])
@pytest.mark.parametrize("group", [chat(*TEXTS), Group("Say: ", tuple(Answer(text) for text in TEXTS))])
def test_the_value_of_a_token_is_the_reward_of_what_was_read_up_to_it(
    base_model: Callable[..., Path], layout: str, group: Group
) -> None:
    loaded = load(base_model, "token_values")
    loaded.model.layout = layout  # type: ignore[assignment]
    scorer = RewardScorer(loaded)
    assert way(scorer) == "tokens"
    (both,) = explanation.explain(scorer, [group]).pairs
    (encoded,) = scorer.encoder.encode([group])
    for text, own, ids in zip(TEXTS, both, encoded.ids, strict=True):
        assert ids is not None
        # the tokenizer's tokens are bytes, and all bytes of a character are one span
        assert [(start, end) for start, end, _ in own.spans] == [(n, n + 1) for n in range(len(text))]
        for start, end, value in own.spans:
            upto = len(text[:end].encode())
            rest = len(text.encode()) - upto
            assert value == pytest.approx(alone(loaded, ids, text, rest), abs=1e-5), (start, end)


def alone(loaded: store.Loaded, ids: NDArray[np.int32], text: str, rest: int) -> float:
    """The classifier's number where all of the text but its last ``rest`` bytes has been read."""
    last = next(
        n
        for n in range(len(ids), 0, -1)
        if loaded.tokenizer.decode(ids[:n]).endswith(text)
        and not loaded.tokenizer.decode(ids[: n - 1]).endswith(text)
    )
    with torch.inference_mode():
        output = loaded.model.inner(torch.tensor(ids[None, : last - rest].astype(np.int64)))
    return float(output.logits[0, 0])


def test_steps_have_their_own_values(base_model: Callable[..., Path]) -> None:
    scorer = RewardScorer(load(base_model, "process"))
    assert way(scorer) == "steps"
    group = chat("Add 2 and 2.\n\n That is 5. \nSo 5.", "Four.")
    (both,) = explanation.explain(scorer, [group]).pairs
    (scored,) = scorer.stream([group])
    assert scored.steps is not None
    text = group.answers[0].text
    assert [text[start:end] for start, end, _ in both[0].spans] == ["Add 2 and 2.", "That is 5.", "So 5."]
    for own, steps in zip(both, scored.steps, strict=True):
        assert [value for *_, value in own.spans] == [value for _, value in steps]


def test_sentences_of_a_model_that_compares_are_measured_within_the_pair(tmp_path: Path) -> None:
    import comparing

    folder = comparing.write(tmp_path / "model", "bert")
    loaded = store.load(ModelSettings(path=str(folder), kind="pair_ranker"))
    scorer = RewardScorer(loaded)
    group = comparing.group("rain is wet . rain is good .", "sun ?", "no idea")
    pair = replace(group, answers=group.answers[:2], comparisons=())
    (both,) = explanation.explain(scorer, [pair]).pairs
    first, second = group.answers[:2]
    (_, end, value), _ = both[0].spans
    rest = Answer((Message("assistant", first.text[end:].lstrip()),))
    whole, less = scorer.score([pair, replace(pair, answers=(rest, second))])
    assert value == pytest.approx(float(whole[0]) - float(less[0]), abs=1e-6)
