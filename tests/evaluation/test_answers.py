"""Answers of policies as numbers, derived by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.evaluation.answers import Answers, Measures, examples
from holdtrue.intervals import wilson

NAN = float("nan")


def answers(rewards: list[list[float]], policy: str = "a", **changes: Any) -> Answers:
    shape = (len(rewards), len(rewards[0]))
    values: dict[str, Any] = {
        "rewards": {"judge": np.array(rewards, dtype=float)},
        "lengths": np.ones(shape),
        "finish": np.full(shape, "stop"),
        "flags": {},
    }
    return Answers(policy, **{**values, **changes})


def evaluate(*own: Answers, **measures: Any) -> dict[str, Any]:
    return Measures(**measures).evaluate(own, {})


def test_a_win_counts_every_pair_of_answers_to_a_prompt_and_a_tie_half() -> None:
    # prompt 1: 1 > 0, 1 = 1, 2 > 0, 2 > 1: 3.5 of 4; prompt 2: 0 < 5 in all four
    found = evaluate(answers([[1, 2], [0, 0]]), answers([[0, 1], [5, 5]], "b"))["against"]["judge"]
    assert found["win_rate"]["mean"] == (3.5 / 4 + 0) / 2
    assert found["win_rate"]["interval"] == list(wilson(0.875, 2))
    assert found["difference"] == {"mean": ((1.5 - 0.5) + (0 - 5)) / 2, "interval": None}
    assert found["prompts"] == 2


def test_answers_without_a_reward_leave_means_wins_and_successes_and_are_counted() -> None:
    ours, theirs = answers([[1, NAN], [NAN, NAN], [3, np.inf]]), answers([[0, 0], [1, 1], [4, 4]], "b")
    found = evaluate(ours, theirs, success=2.0)
    rewards = found["policies"][0]["rewards"]["judge"]
    assert rewards["mean"] == 2 and rewards["unscored"] == 4
    assert rewards["success"]["mean"] == 0.5  # 3 of 1 and 3
    against = found["against"]["judge"]
    assert against["win_rate"]["mean"] == 0.5 and against["prompts"] == 2
    assert against["difference"]["mean"] == 0.0  # (1 - 0) and (3 - 4)
    nothing = evaluate(answers([[NAN]]), answers([[1]], "b"), success=0.0)
    assert nothing["policies"][0]["rewards"]["judge"]["success"] == {"mean": None, "interval": None}
    assert nothing["against"]["judge"]["win_rate"] == {"mean": None, "interval": None}


def test_shares_have_wilsons_interval_and_means_a_bootstrap_from_ten_prompts_on() -> None:
    lengths = np.arange(10.0)[:, None]
    finish = np.array([["stop"]] * 7 + [["length"]] * 3)
    flags = {"degenerate": np.arange(10)[:, None] < 2}
    made = answers([[0.0]] * 10, lengths=lengths, finish=finish, flags=flags)
    (row,) = evaluate(made)["policies"]
    assert row["finish"]["stop"] == {"mean": 0.7, "interval": list(wilson(7, 10))}
    assert row["finish"]["loop"] == {"mean": 0.0, "interval": list(wilson(0, 10))}
    assert row["flags"]["degenerate"] == {"mean": 0.2, "interval": list(wilson(2, 10))}
    low, high = row["length"]["interval"]
    # the standard error of the mean of 0..9 is √(8.25 / 10) = 0.908: ± 1.78 around 4.5
    assert row["length"]["mean"] == 4.5 and 2.5 < low < 3.0 and 6.0 < high < 6.5
    few = answers([[0.0]] * 9, lengths=lengths[:9])
    assert evaluate(few)["policies"][0]["length"] == {"mean": 4.0, "interval": None}
    wide = evaluate(made, confidence=0.5)["policies"][0]["finish"]["stop"]["interval"]
    assert wide == list(wilson(7, 10, 0.5))


def test_a_judge_that_compares_says_who_wins_and_nothing_of_one_policy() -> None:
    pair = answers([[1.0]]), answers([[-1.0]], "b")
    found = evaluate(*pair, comparing=frozenset({"judge"}))
    assert [row["rewards"] for row in found["policies"]] == [{}, {}]
    assert found["against"]["judge"]["win_rate"]["mean"] == 1.0


def test_slices_have_the_same_numbers_of_their_prompts_most_prompts_first() -> None:
    pair = answers([[1.0], [1.0], [0.0]]), answers([[0.0], [0.0], [1.0]], "b")
    parts = {"kind": {"rare": np.array([False, False, True]), "often": np.array([True, True, False])}}
    often, rare = Measures().evaluate(pair, parts)["slices"]["kind"]
    assert (often["value"], often["prompts"], rare["value"]) == ("often", 2, "rare")
    assert often["against"]["judge"]["win_rate"]["mean"] == 1.0
    assert rare["against"]["judge"]["win_rate"]["mean"] == 0.0
    assert rare["policies"][1]["rewards"]["judge"]["mean"] == 1.0


def test_win_rates_of_several_answers_vary_less_than_coins() -> None:
    drawn = np.random.default_rng(0).normal(size=(100, 16))
    pair = answers((drawn[:, :8] + 0.3).tolist()), answers(drawn[:, 8:].tolist(), "b")
    found = evaluate(*pair)["against"]["judge"]["win_rate"]
    wins = (pair[0].rewards["judge"][:, :, None] > pair[1].rewards["judge"][:, None, :]).mean((1, 2))
    low, high = found["interval"]
    assert found["mean"] == pytest.approx(wins.mean())
    # 1.96 standard errors of the prompts' means to each side, not those of 100 coins (0.097)
    assert (high - low) / 2 == pytest.approx(1.96 * wins.std() / 10, rel=0.15)
    same = evaluate(answers([[1.0, 2.0]] * 12), answers([[0.0, 0.0]] * 12, "b"))["against"]["judge"]
    assert same["win_rate"] == {"mean": 1.0, "interval": list(wilson(12, 12))}


@given(st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=12))
def test_what_one_policy_wins_the_other_loses(rows: list[list[int]]) -> None:
    ours, theirs = [row[:2] for row in rows], [row[2:] for row in rows]
    won = evaluate(answers(ours), answers(theirs, "b"))["against"]["judge"]
    lost = evaluate(answers(theirs, "b"), answers(ours))["against"]["judge"]
    assert won["win_rate"]["mean"] == pytest.approx(1 - lost["win_rate"]["mean"])
    assert won["difference"]["mean"] == pytest.approx(-lost["difference"]["mean"])


def test_examples_are_the_largest_differences_one_a_prompt_then_others_at_random() -> None:
    ours = answers([[0, 1], [9, 0], [0, -5], [0, NAN], [NAN, NAN]])
    theirs = answers([[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], "b")
    first, none = examples([ours, theirs], "judge", 2, 0)
    assert first == [(1, 0), (2, 1)] and none == []
    again, others = examples([ours, theirs], "judge", 2, 3)
    assert again == first and [p for p, _ in others] == [0, 3, 4]
    every, others = examples([ours, theirs], "judge", 9, 9)
    assert [p for p, _ in every] == [1, 2, 0, 3] and others == [(4, 0)]  # without a reward


def test_examples_of_one_policy_are_its_lowest_rewards() -> None:
    assert examples([answers([[3, 1], [0, 7], [2, -1]])], "judge", 2, 0) == ([(2, 1), (1, 0)], [])
