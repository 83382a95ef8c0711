from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.reward import store
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.scorer import RewardScorer, by_aspect
from holdtrue.settings import ModelSettings
from holdtrue.tokens.batches import TreeBatch, lay_out
from holdtrue.tokens.tree import grow


@pytest.fixture
def loaded(base_model: Callable[..., Path]) -> store.Loaded:
    return store.load(ModelSettings(path=str(base_model())), seed=42)


def chat(question: str, *answers: str) -> Group:
    return Group(
        (Message("user", question),),
        tuple(Answer((Message("assistant", text),)) for text in answers),
        (Comparison(0, 1),) if len(answers) > 1 else (),
    )


GROUPS = [
    chat("Why?", "Because.", "No idea."),
    chat("How does it work, in some detail please?", "Well", "It turns " * 12, "x", ""),
    chat("Why?", "Because.", "Ask again."),
    Group("Plain text", (Answer(" goes on"), Answer(""))),
    chat("A lonely one", "yes"),
    chat("Why?"),
    chat("Many", *(f"answer {k} {'ab' * k}" for k in range(20))),
]


def flat(values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(values)


def test_every_answer_gets_the_reward_it_has_alone_in_its_place(loaded: store.Loaded) -> None:
    scores = RewardScorer(loaded).score(GROUPS)
    assert [len(s) for s in scores] == [2, 4, 2, 2, 1, 0, 20]
    assert all(s.dtype == np.float32 for s in scores)
    for group, own in zip(GROUPS, scores, strict=True):
        (encoded,) = loaded.encoder().encode([group])
        for ids, reward in zip(encoded.ids, own, strict=True):
            with torch.no_grad():
                alone = loaded.model(lay_out([grow([ids])])).rewards.item()
            assert reward == pytest.approx(alone, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("layout", ["tree", "padded"])
@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 3}, {"max_tokens_per_pass": 60}])
def test_chunks_and_passes_change_no_reward(
    layout: str, options: dict[str, int], loaded: store.Loaded
) -> None:
    expected = flat(RewardScorer(loaded).score(GROUPS))
    loaded.model.layout = layout
    found = flat(RewardScorer(loaded, **options).score(GROUPS))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_company_and_order_change_no_reward(loaded: store.Loaded) -> None:
    scorer = RewardScorer(loaded)
    expected = scorer.score(GROUPS)
    for group, own in zip(GROUPS, expected, strict=True):
        assert np.allclose(scorer.score([group])[0], own, rtol=0, atol=1e-5)
    for found, own in zip(scorer.score(GROUPS[::-1])[::-1], expected, strict=True):
        assert np.allclose(found, own, rtol=0, atol=1e-5)


def seen(loaded: store.Loaded) -> list[tuple[int, int]]:
    """Filled with (answers, tokens) of every pass of the model."""
    passes: list[tuple[int, int]] = []

    def watch(_: object, batches: tuple[TreeBatch]) -> None:
        passes.append((len(batches[0].rows), batches[0].input_ids.numel()))

    loaded.model.register_forward_pre_hook(watch)
    return passes


def test_equal_answers_to_one_prompt_are_computed_once_over_all_rows(loaded: store.Loaded) -> None:
    passes = seen(loaded)
    first, second, third = RewardScorer(loaded).score([GROUPS[0], GROUPS[2], GROUPS[0]])
    assert sum(answers for answers, _ in passes) == 3  # Because. No idea. Ask again.
    assert first[0] == second[0] == third[0] and first[1] == third[1]
    lengths = [
        len(ids) for g in (GROUPS[0], GROUPS[2]) for e in loaded.encoder().encode([g]) for ids in e.ids
    ]
    assert sum(tokens for _, tokens in passes) < sum(lengths[:2]) + lengths[3]  # and the prompt once


def test_a_pass_keeps_to_its_tokens(loaded: store.Loaded) -> None:
    passes = seen(loaded)
    RewardScorer(loaded, max_tokens_per_pass=250).score(GROUPS * 3)
    assert len(passes) > 1 and max(tokens for _, tokens in passes) <= 250


def test_an_answer_that_does_not_fit_is_nan_with_its_reason_and_the_others_are_scored(
    loaded: store.Loaded,
) -> None:
    groups = [chat("q", "short", "long " * 200), chat("q" * 600, "a"), chat("q", "short")]
    whole, nothing, after = RewardScorer(loaded).stream(groups)
    assert whole.reasons == (None, "longer than max_length")
    assert np.isfinite(whole.rewards[0]) and np.isnan(whole.rewards[1])
    assert nothing.reasons == ("longer than max_length",) and np.isnan(nothing.rewards).all()
    assert after.rewards[0] == whole.rewards[0]


def test_rewards_that_are_not_finite_are_nan_with_a_reason(loaded: store.Loaded) -> None:
    with torch.no_grad():
        loaded.model.head.weight.fill_(float("inf"))
    (scored,) = RewardScorer(loaded).stream([GROUPS[0]])
    assert np.isnan(scored.rewards).all()
    assert scored.reasons == ("reward is not finite",) * 2


def test_streaming_reads_no_further_than_its_chunk(loaded: store.Loaded) -> None:
    read = 0

    def source() -> Iterator[Group]:
        nonlocal read
        for number in range(10):
            read += 1
            yield chat(f"question {number}", "a")

    stream = RewardScorer(loaded, chunk=4).stream(source())
    reads = []
    for _ in stream:
        reads.append(read)
    assert reads == [4, 4, 4, 4, 8, 8, 8, 8, 10, 10]


def test_no_groups_have_no_rewards(loaded: store.Loaded) -> None:
    assert RewardScorer(loaded).score([]) == []


def test_scoring_leaves_no_gradients_and_no_mode_behind(loaded: store.Loaded) -> None:
    RewardScorer(loaded).score(GROUPS[:2])
    assert not loaded.model.training
    assert all(p.grad is None for p in loaded.model.parameters())


def test_the_same_prompt_as_chat_and_as_plain_text_is_not_mixed_up(loaded: store.Loaded) -> None:
    as_chat, as_text = chat("Why?", "Yes"), Group("Why?", (Answer("Yes"),))
    together = RewardScorer(loaded).score([as_chat, as_text])
    assert together[0][0] != together[1][0]
    assert together[1][0] == pytest.approx(RewardScorer(loaded).score([as_text])[0][0], abs=1e-5)


def test_more_answers_than_one_tree_takes_keep_their_order(loaded: store.Loaded) -> None:
    many = chat("Many", *(f"{k} " * (k % 7 + 1) for k in range(40)))
    (scores,) = RewardScorer(loaded).score([many])
    for k in (0, 15, 16, 31, 39):
        alone = RewardScorer(loaded).score([replace(many, answers=(many.answers[k],), comparisons=())])[0][0]
        assert scores[k] == pytest.approx(alone, abs=1e-5)
    assert all(a != b for a, b in pairwise(scores))


def test_groups_nothing_of_which_is_scored_keep_their_place_among_the_aspects(
    base_model: Callable[..., Path],
) -> None:
    kind = Aspects(names=["x", "y"])
    loaded = store.load(ModelSettings(path=str(base_model()), kind=kind))
    groups = [chat("Why?", "Because."), chat("How?", "long " * 200), chat("Who?"), chat("Where?", "Here.")]
    for chunk in (1, 4):
        found = by_aspect(list(RewardScorer(loaded, chunk=chunk).stream(groups)))
        assert {name: [len(row) for row in rows] for name, rows in found.items()} == {
            "x": [1, 1, 0, 1],
            "y": [1, 1, 0, 1],
        }
        assert [bool(np.isnan(row).any()) for row in found["y"]] == [False, True, False, False]
