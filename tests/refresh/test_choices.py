"""What methods choose, weigh and mine, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest

from holdtrue.records import Answer, Comparison, Group
from holdtrue.refresh.context import RefreshContext
from holdtrue.refresh.labels import Pair
from holdtrue.refresh.methods import named
from holdtrue.refresh.methods.adversarial import junk, over_rated
from holdtrue.refresh.methods.fresh_labels import agreement, d_optimal, slope, spread
from holdtrue.refresh.methods.importance import ImportanceWeights, effective_sample_size, weights
from holdtrue.reward.scorer import Scored, StreamingScorer

A = np.array


def group(*texts: str, comparisons: tuple[Comparison, ...] = ()) -> Group:
    return Group("p", tuple(map(Answer, texts)), comparisons)


# --- importance weights ----------------------------------------------------------------------------


def test_weights_have_mean_1_and_the_ratio_of_the_densities() -> None:
    found = weights(A([math.log(3), 0.0]), power=1.0, clip=20)
    assert found.tolist() == pytest.approx([1.5, 0.5])
    assert weights(A([math.log(9), 0.0]), power=0.5, clip=20).tolist() == pytest.approx([1.5, 0.5])
    assert weights(A([5000.0, 0.0]), power=1.0, clip=20).tolist() == [2.0, 0.0]  # nothing overflows


def test_a_clipped_weight_is_so_many_times_the_mean_before() -> None:
    # 8, 0, 0, 0 over their mean: 4, clipped to 2, of mean 0.5
    assert weights(A([9000.0, 0.0, 0.0, 0.0]), 1.0, clip=2).tolist() == [4.0, 0.0, 0.0, 0.0]
    # 12, 2, 1, 1 over their mean 4: 3, .5, .25, .25; clipped to 2; of mean 3/4
    found = weights(np.log(A([12.0, 2.0, 1.0, 1.0])), 1.0, clip=2)
    assert found.tolist() == pytest.approx([8 / 3, 2 / 3, 1 / 3, 1 / 3])


def test_the_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(A([1.0, 1.0, 1.0])) == pytest.approx(3)
    assert effective_sample_size(A([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(A([1.0, 0.0, 0.0])) == pytest.approx(1)


def test_the_power_is_lowered_until_enough_pairs_are_left() -> None:
    ratios = np.random.default_rng(0).normal(0, 5, 400)
    method = ImportanceWeights(least_ess=0.5)
    power = method.tempered(ratios)
    share = effective_sample_size(weights(ratios, power, 20)) / 400
    assert 0 < power < 1 and share == pytest.approx(0.5, abs=0.01)
    assert ImportanceWeights(least_ess=0).tempered(ratios) == 1.0


# --- labels ----------------------------------------------------------------------------------------


def test_the_budget_is_spread_over_prompts() -> None:
    pairs = [Pair(0, 0, 1), Pair(0, 0, 2), Pair(0, 1, 2), Pair(1, 0, 1), Pair(2, 0, 1)]
    assert spread(range(5), pairs, 3) == [0, 3, 4]
    assert spread(range(5), pairs, 4) == [0, 1, 3, 4]  # two of a prompt
    assert spread([4, 2, 1, 0, 3], pairs, 9) == [4, 2, 1, 0, 3]  # all there are


def test_a_pair_the_prompts_share_cannot_give_is_bought_elsewhere() -> None:
    pairs = [Pair(0, 0, 1), Pair(1, 0, 1), Pair(1, 0, 2), Pair(1, 1, 2)]
    assert sorted(spread(range(4), pairs, 4)) == [0, 1, 2, 3]


def test_d_optimal_choice_is_greedy_in_the_determinant() -> None:
    rng = np.random.default_rng(3)
    features, gaps = rng.normal(size=(12, 4)), rng.normal(size=12)
    seen = rng.normal(size=(5, 4))
    scale = math.sqrt(np.square(features).sum(1).mean())
    rows = features / scale * np.sqrt(slope(gaps))[:, None]
    matrix = np.eye(4) + 0.25 * (seen / scale).T @ (seen / scale)
    expected: list[int] = []
    for _ in range(6):
        left = [i for i in range(12) if i not in expected]
        best = max(left, key=lambda i: np.linalg.det(matrix + np.outer(rows[i], rows[i])))
        matrix += np.outer(rows[best], rows[best])
        expected.append(best)
    assert d_optimal(features, slope(gaps), seen, 6) == expected


def test_a_direction_that_is_known_is_not_bought_again() -> None:
    features = A([[1.0, 0.0], [0.0, 0.9]])
    assert d_optimal(features, A([0.25, 0.25]), np.zeros((0, 2)), 1) == [0]
    assert d_optimal(features, A([0.25, 0.25]), A([[5.0, 0.0]]), 1) == [1]


def test_agreement_with_the_labels_counts_equal_rewards_half_and_no_ties() -> None:
    said = [
        group("a", "b", comparisons=(c,))
        for c in (Comparison(0, 1), Comparison(1, 0), Comparison(0, 1), Comparison(0, 1, 0.5))
    ]
    assert agreement(A([1.0, 1.0, 0.0, 3.0, 9.0]), [*said, None]) == (1.5, 3)


@pytest.mark.parametrize("choose", ["uncertainty", "shift"])
def test_the_pairs_asked_for_are_those_of_the_rule(make: Callable[..., RefreshContext], choose: str) -> None:
    asked: list[Group] = []
    context = make(budget=8)

    def listen(groups: Sequence[Group]) -> list[Comparison | None]:
        asked.extend(groups)
        return [Comparison(0, 1)] * len(groups)

    named({"kind": "fresh_labels", "choose": choose})(make(budget=8, labeller=listen))
    rewards = context.current.score(context.shifted)
    assert len(asked) == 8  # one of each prompt: the one the rule likes best
    for group_, own, ratio in zip(context.shifted, rewards, context.shifted_log_ratios or (), strict=True):
        value = {
            "uncertainty": lambda i, j, own=own: abs(own[i] - own[j]),
            "shift": lambda i, j, ratio=ratio: -(ratio[i] + ratio[j]),
        }[choose]
        best = min(combinations(range(3), 2), key=lambda pair: value(*pair))
        texts = {group_.answers[i].text for i in best}
        assert texts in [{a.text for a in one.answers} for one in asked if one.prompt == group_.prompt]


# --- adversarial -----------------------------------------------------------------------------------


def test_the_favourite_that_a_second_model_rates_lower_loses_against_that_ones_favourite() -> None:
    groups = [group("a", "b", "c")] * 3
    first = [A([3.0, 0.0, 1.0]), A([1.5, 0.0, 1.0]), A([np.nan] * 3)]
    second = [A([0.0, 1.0, 2.0]), A([1.0, 0.0, 2.0]), A([np.nan] * 3)]
    ((excess, found),) = over_rated(groups, first, second, margin=1.0)
    assert excess == 3.0 and found.comparisons == (Comparison(2, 0),)


class Words(StreamingScorer):
    """Pays for length, or for its lack."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def _score_chunk(self, groups: Sequence[Group]) -> list[Scored]:
        return [
            Scored(A([self.sign * len(a.text) for a in g.answers], np.float32), (None,) * len(g.answers))
            for g in groups
        ]


def test_the_twin_that_is_paid_best_loses_against_the_answer_it_was_made_of() -> None:
    pairs = [group("fine answer", "bad", comparisons=(Comparison(0, 1),))]
    ((gain, found),) = junk(pairs, Words(1))
    assert found.answers[0].text == "fine answer" and found.comparisons == (Comparison(0, 1),)
    assert gain == len(found.answers[1].text) - len("fine answer") > 1000  # 1800 words of filler
    ((_, empty),) = junk(pairs, Words(-1))
    assert empty.answers[1].text == ""
