"""Best of n against numbers derived by hand, against all draws one by one, and on real ratings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.data.reader import Reader
from holdtrue.evaluation.best_of_n import curve, kl, measure
from holdtrue.records import Answer, Group

SMALL = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=1, max_size=6)


def rated(prompt: str, ratings: list[float | None]) -> Group:
    return Group(
        prompt,
        tuple(Answer("x" * (i + 1), {} if r is None else {"rating": r}) for i, r in enumerate(ratings)),
    )


def run(groups: list[Group], rewards: list[list[float]]) -> dict:
    found = measure(groups, *columns(groups, rewards), 0.95)
    assert found is not None
    return found


def columns(groups: list[Group], rewards: list[list[float]]) -> tuple[list, list]:
    lengths = [np.array([len(answer.text) for answer in group.answers]) for group in groups]
    return [np.array(row, dtype=np.float64) for row in rewards], lengths


def test_the_pick_of_two_among_four_is_the_weighted_sum_of_the_ranks() -> None:
    # C(r-1, 1) / C(4, 2) for ranks 1 to 4 is 0, 1/6, 2/6, 3/6; gold by rank is 10, 0, 4, 6.
    found = curve(np.array([3.0, 1.0, 4.0, 2.0]), np.array([4.0, 10.0, 6.0, 0.0]), 4)
    # n = 1: 20/4. n = 2: 0 + 8/6 + 18/6 = 26/6. n = 3: weights 0, 0, 1/4, 3/4: 1 + 4.5. n = 4: the best.
    assert found == pytest.approx([5.0, 26 / 6, 5.5, 6.0])


def test_answers_with_equal_rewards_share_their_wins() -> None:
    # The two best are tied: of 3 draws of 2 answers all hold one of them, so each wins half: (1 + 5) / 2.
    assert curve(np.array([2.0, 2.0, 0.0]), np.array([1.0, 5.0, 9.0]), 3) == pytest.approx([5.0, 3.0, 3.0])
    # Without any difference in reward, every n is a random pick.
    assert curve(np.zeros(3), np.array([1.0, 5.0, 9.0]), 3) == pytest.approx([5.0] * 3)


@given(SMALL)
def test_it_is_the_mean_over_all_draws(answers: list[tuple[int, int]]) -> None:
    rewards, gold = np.array(answers, dtype=np.float64).T
    found = curve(rewards, gold, len(answers))
    for n in range(1, len(answers) + 1):
        picks = []
        for draw in itertools.combinations(range(len(answers)), n):
            best = max(rewards[i] for i in draw)
            picks.append(np.mean([gold[i] for i in draw if rewards[i] == best]))
        assert found[n - 1] == pytest.approx(float(np.mean(picks)))


@given(SMALL, st.randoms(use_true_random=False))
def test_the_order_of_the_answers_and_the_units_of_the_reward_do_not_matter(answers, random) -> None:
    rewards, gold = np.array(answers, dtype=np.float64).T
    order = random.sample(range(len(answers)), len(answers))
    turned = curve(7 * rewards[order] - 2, gold[order], len(answers))
    assert turned == pytest.approx(curve(rewards, gold, len(answers)))


def test_the_kl_of_best_of_four_is_log_four_less_three_quarters() -> None:
    assert (kl(1), kl(4)) == (0.0, pytest.approx(math.log(4) - 0.75))


def test_oracle_random_and_longest_stand_beside_the_reward() -> None:
    # The last answer is the longest. Rewards pick the middle one, the oracle the first.
    point = run([rated("p", [9.0, 6.0, 0.0])], [[1.0, 2.0, 0.0]])["curve"][-1]
    assert (point["n"], point["rating"], point["oracle"], point["random"], point["longest"]) == (
        3,
        6,
        9,
        5,
        0,
    )
    assert (point["interval"], point["lead_interval"]) == (None, None)


def test_answers_without_rating_or_reward_are_not_in_the_draw() -> None:
    group = rated("p", [1.0, None, 2.0, 3.0, 100.0])
    found = run([group, rated("q", [1.0, None, None])], [[0.0, 9.0, 1.0, 2.0, math.nan], [0.0] * 3])
    assert (found["groups"], found["left_out"]) == (1, 1)
    assert [point["n"] for point in found["curve"]] == [1, 2, 3]
    assert found["curve"][-1]["rating"] == 3.0


def test_every_point_is_over_the_lists_that_nine_in_ten_can_fill() -> None:
    groups = [rated(f"p{n}", [0.0, 1.0, 2.0, 3.0]) for n in range(18)]
    few = [rated("few", [0.0, 1.0, 2.0]), rated("two", [0.0, 1.0])]
    found = run([*groups, *few], [[0.0, 1.0, 2.0, 3.0]] * 18 + [[0.0, 1.0, 2.0], [0.0, 1.0]])
    assert (len(found["curve"]), found["groups"], found["left_out"]) == (4, 18, 2)
    assert found["curve"][-1]["rating"] == 3.0


def test_without_three_rated_answers_there_is_no_curve() -> None:
    groups = [rated("p", [1.0, 2.0]), Group("q", (Answer("a"), Answer("b"), Answer("c")))]
    assert measure(groups, *columns(groups, [[1.0, 2.0], [1.0, 2.0, 3.0]]), 0.95) is None


def test_prompts_are_resampled_with_all_their_lists() -> None:
    # 20 prompts of two lists; the pick is rated 1 in 10 prompts and 0 in 10: a Binomial(20, 1/2) / 20.
    groups = [rated(f"p{n // 2}", [float(n // 2 % 2)] * 3) for n in range(40)]
    found = run(groups, [[0.0, 1.0, 2.0]] * 40)
    assert (found["groups"], found["prompts"]) == (40, 20)
    assert found["curve"][2]["interval"] == pytest.approx([0.3, 0.7])
    assert found["curve"][2]["lead_interval"] == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize(
    ("name", "most", "groups"), [("toxicity_ratings/train", 12, 177), ("rmb_bon/helpful.test", 3, 184)]
)
def test_real_ratings_lie_between_a_random_pick_and_the_oracle(
    shared: Callable[[str], Path], name: str, most: int, groups: int
) -> None:
    rows = list(Reader([str(shared(f"data/{name}.jsonl.gz"))]))
    # A scorer that knows the rating but for a grid of 0.5 with an offset: right where ratings are far apart.
    rewards = [[round(2 * a.ratings["rating"] + 0.3) for a in row.answers] for row in rows]
    found = run(rows, rewards)
    assert (len(found["curve"]), found["groups"]) == (most, groups)
    ratings = np.mean([np.mean([a.ratings["rating"] for a in row.answers]) for row in rows])
    first, *rest = found["curve"]
    assert [first[by] for by in ("rating", "oracle", "longest")] == pytest.approx([ratings] * 3)
    for point in rest:
        assert point["random"] == pytest.approx(ratings)
        assert point["random"] < point["interval"][0] < point["rating"] <= point["oracle"] + 1e-12
