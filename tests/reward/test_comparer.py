"""From gaps between answers to rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import comparing
from comparing import group
from holdtrue.records import Comparison, Group
from holdtrue.reward import store
from holdtrue.reward.comparer import (
    PairComparer,
    Shown,
    comparable,
    judge,
    knockout,
    mean_gaps,
    probabilities,
    win_rates,
)
from holdtrue.reward.scorer import RewardScorer, position_consistency
from holdtrue.settings import ModelSettings

Order = tuple[int, int]

C = np.array([[0, 1, 2], [-0.5, 0, 0.3], [-2, -0.1, 0]])  # LLM-Blender's z(row, column), row shown first


def test_mean_gaps_are_half_of_max_logits() -> None:
    # max_logits: row sums of C - Cᵀ over N = 3: (1.5 + 4) / 3, (-1.5 + 0.4) / 3, (-4 - 0.4) / 3
    assert 2 * mean_gaps(Shown(C, {}).gaps) == pytest.approx([5.5 / 3, -1.1 / 3, -4.4 / 3])


def test_two_answers_rewards_give_back_their_gap() -> None:
    gaps = Shown(np.array([[0, 1.5], [-0.5, 0]]), {}).gaps
    assert gaps[0, 1] == 1.0  # (1.5 + 0.5) / 2
    assert mean_gaps(gaps).tolist() == [0.5, -0.5]


def test_win_rates_are_mean_probabilities_over_the_others() -> None:
    gaps = np.log(np.array([[1, 3, 4], [1 / 3, 1, 1], [1 / 4, 1, 1]]))  # σ(log o) = o / (1 + o)
    assert win_rates(gaps) == pytest.approx([(3 / 4 + 4 / 5) / 2, (1 / 4 + 1 / 2) / 2, (1 / 5 + 1 / 2) / 2])


def test_probabilities_of_both_orders_sum_to_one_and_do_not_overflow() -> None:
    gaps = np.array([[0, 1000.0, -3], [-1000, 0, 0.1], [3, -0.1, 0]])
    found = probabilities(gaps)
    assert np.isnan(np.diag(found)).all()
    assert (found + found.T)[np.triu_indices(3, 1)] == pytest.approx([1, 1, 1])


def test_answers_that_lack_gaps_are_left_out_and_the_others_kept() -> None:
    gaps = np.zeros((4, 4))
    np.fill_diagonal(gaps, np.nan)
    assert comparable(gaps) == [0, 1, 2, 3]
    gaps[2, :] = gaps[:, 2] = np.nan
    assert comparable(gaps) == [0, 1, 3]
    assert len(comparable(np.full((3, 3), np.nan))) == 1


def counted_knockout(strength: list[float]) -> tuple[np.ndarray, int]:
    played = 0

    def play(pairs: list[list[Order]]) -> list[list[float]]:
        nonlocal played
        played += sum(map(len, pairs))
        return [[strength[i] - strength[j] for i, j in own] for own in pairs]

    return knockout([len(strength)], play)[0], played


@given(st.permutations(range(9)), st.integers(1, 9))
def test_a_knockout_finds_the_best_of_n_with_n_minus_1_comparisons(order: list[int], count: int) -> None:
    strength = [float(value) for value in order[:count]]
    survived, played = counted_knockout(strength)
    assert played == count - 1  # in both orders: 2 (N - 1) sequences
    assert survived.argmax() == np.argmax(strength)
    assert (survived == survived.max()).sum() == 1
    assert survived.max() == (np.ceil(log2(count)) if count > 1 else 0)


def test_groups_of_all_sizes_play_their_rounds_together() -> None:
    rounds: list[list[int]] = []

    def play(pairs: list[list[Order]]) -> list[list[float]]:
        rounds.append([len(own) for own in pairs])
        return [[float(j - i) for i, j in own] for own in pairs]  # the earlier answer wins

    found = knockout([1, 2, 5], play)
    assert rounds == [[0, 1, 2], [0, 0, 1], [0, 0, 1]]
    assert [survived.tolist() for survived in found] == [[0], [1, 0], [3, 0, 1, 0, 2]]


@pytest.fixture(scope="module", params=["llama", "bert"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> store.Loaded:
    family = request.param
    folder = comparing.write(tmp_path_factory.mktemp(family) / "model", family)
    settings = ModelSettings(path=str(folder), kind=comparing.KINDS[family])  # type: ignore[arg-type]
    return store.load(settings, seed=3)


FOUR = group("kind and warm", "rude", "the answer is cold", "clear", compared=False)


def test_swapping_two_answers_swaps_their_rewards_exactly(loaded: store.Loaded) -> None:
    pair = group("kind and warm", "rude")
    scorer = RewardScorer(loaded, max_tokens_per_pass=1)
    one, other = scorer.score([pair, replace(pair, answers=pair.answers[::-1])])
    assert one[0] == -one[1] != 0
    assert one.tolist() == other[::-1].tolist()


def test_compare_gives_probabilities_of_every_pair(loaded: store.Loaded) -> None:
    comparer = PairComparer(loaded, loaded.encoder())  # type: ignore[arg-type]
    (found,) = comparer.compare([FOUR])
    assert found.shape == (4, 4) and np.isnan(np.diag(found)).all()
    off = ~np.eye(4, dtype=bool)
    assert (found + found.T)[off] == pytest.approx(1) and (found[off] != 0.5).all()


def test_rewards_do_not_hang_on_what_is_scored_beside(loaded: store.Loaded) -> None:
    groups = [FOUR, group("warm", "cold so rude"), group("kind " * 20, "x")]
    together = RewardScorer(loaded).score(groups)
    for own, found in zip(groups, together, strict=True):
        alone = RewardScorer(loaded, max_tokens_per_pass=1).score([own])[0]
        assert found == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("ranking", ["gap", "win_rate", "knockout"])
def test_equal_answers_get_equal_rewards_and_one_answer_none(loaded: store.Loaded, ranking: str) -> None:
    scorer = RewardScorer(loaded, ranking=ranking)  # type: ignore[arg-type]
    twins, single, none = scorer.stream([group("kind", "kind"), group("kind"), Group("tell", ())])
    assert twins.reasons == (None, None)
    if ranking != "knockout":  # which has one winner always
        assert twins.rewards[0] == twins.rewards[1]
    assert np.isnan(single.rewards).all() and single.reasons == ("nothing to compare it with",)
    assert none.rewards.shape == (0,)


def test_a_knockout_computes_two_sequences_per_comparison(
    loaded: store.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = loaded.encoder()
    shown = 0
    original: Callable[..., object] = type(encoder).encode

    def counting(self: object, asked: list[tuple[Group, list[Order]]]) -> object:
        nonlocal shown
        shown += sum(len(orders) for _, orders in asked)
        return original(self, asked)

    monkeypatch.setattr(type(encoder), "encode", counting)
    comparer = PairComparer(loaded, encoder)  # type: ignore[arg-type]
    (found,) = judge(comparer, [FOUR], "knockout")
    assert shown == 6  # 2 (N - 1)
    assert sorted(found.rewards.tolist()) == [0, 0, 1, 2]


def test_an_answer_that_does_not_fit_has_no_reward_and_the_others_do(loaded: store.Loaded) -> None:
    long = replace(FOUR, answers=(*FOUR.answers[:3], group("kind " * 200).answers[0]))
    (found,) = RewardScorer(loaded).stream([long])
    assert np.isfinite(found.rewards[:3]).all() and np.isnan(found.rewards[3])
    assert found.reasons == (None, None, None, "longer than max_length")
    (found,) = RewardScorer(loaded, ranking="knockout").stream([long])
    assert np.isnan(found.rewards).all() and set(found.reasons) == {"longer than max_length"}


def test_position_consistency_is_the_share_with_one_winner_in_both_orders(loaded: store.Loaded) -> None:
    groups = [group(f"kind {k * 'so '}", f"rude {k * 'and '}") for k in range(12)]
    groups += [replace(FOUR, comparisons=(Comparison(0, 2), Comparison(3, 1)))]
    scored = list(RewardScorer(loaded).stream(groups))
    comparer = PairComparer(loaded, loaded.encoder())  # type: ignore[arg-type]
    same = [
        shown.logits[c.first, c.second] * shown.logits[c.second, c.first] < 0
        for own, shown in zip(groups, comparer.show(groups), strict=True)
        for c in own.comparisons
    ]
    assert len(same) == 14
    assert position_consistency(scored) == {"position_consistency": sum(same) / 14}


def test_models_that_score_single_answers_have_no_position_consistency(toy_folder: Path) -> None:
    loaded = store.load(ModelSettings(path=str(toy_folder / "model")))
    assert position_consistency(RewardScorer(loaded).stream([group("kind", "rude")])) == {}
