"""Policies by reward, against numbers derived by hand and on real answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.data.reader import Reader
from holdtrue.errors import DataError
from holdtrue.evaluation.policies import kendall, rank, spearman
from holdtrue.intervals import wilson
from holdtrue.records import Answer, Group


def answer(prompt: str, policy: str, text: str = "x") -> Group:
    return Group(prompt, (Answer(text),), meta={"policy": policy})


def run(rows: list[tuple[str, str, float]], board: Any = None) -> dict[str, Any]:
    """Rank from (prompt, policy, reward); the text is as long as the policy's name."""
    groups = [answer(prompt, policy, "x" * len(policy)) for prompt, policy, _ in rows]
    return rank(groups, [np.array([reward]) for *_, reward in rows], 0.95, board)


def by_name(found: dict[str, Any]) -> dict[str, Any]:
    return {row["policy"]: row for row in found["policies"]}


def test_win_rates_are_over_common_prompts_and_a_tie_counts_half() -> None:
    rows = [("p", "a", 1.0), ("p", "b", 0.0), ("q", "a", 2.0), ("q", "b", 2.0), ("r", "a", 0.0)]
    found = run(rows)
    assert (found["prompts"], found["common_prompts"], found["answers"]) == (3, 2, 5)
    assert [row["policy"] for row in found["policies"]] == ["a", "b"]
    a, b = found["policies"]
    # a wins p and ties q; r has no answer of b.
    assert a["against"] == {"b": {"win_rate": 0.75, "interval": [*wilson(1.5, 2)], "prompts": 2}}
    low, high = wilson(1.5, 2)
    assert b["against"]["a"] == {"win_rate": 0.25, "interval": [1 - high, 1 - low], "prompts": 2}
    assert (a["reward"], b["reward"], a["prompts"], a["reward_interval"]) == (1.5, 1.0, 3, None)


def test_several_answers_of_a_policy_meet_all_of_the_other() -> None:
    group = Group("p", tuple(map(Answer, "abc")), meta={"policies": ["one", "one", "two"]})
    a = by_name(rank([group], [np.array([1.0, 3.0, 2.0])], 0.95))["one"]
    # 1 < 2 and 3 > 2.
    assert a["against"]["two"]["win_rate"] == 0.5
    assert (a["reward"], a["prompts"]) == (2.0, 1)


def test_an_answer_without_reward_is_no_answer() -> None:
    found = run([("p", "a", math.nan), ("p", "b", 0.0), ("q", "a", 1.0), ("q", "b", 0.0)])
    assert (found["unscored"], found["common_prompts"]) == (1, 1)
    assert by_name(found)["a"]["against"]["b"]["win_rate"] == 1.0


def test_without_a_common_prompt_there_is_no_win_rate_and_no_mean_reward() -> None:
    found = run([("p", "a", 1.0), ("q", "b", 0.0)])
    row = by_name(found)["a"]
    assert (row["win_rate"], row["reward"], row["length"], found["common_prompts"]) == (None, None, None, 0)
    assert row["against"]["b"] == {"win_rate": None, "interval": None, "prompts": 0}


def test_a_policy_that_meets_nobody_stands_last() -> None:
    found = run([("p", "loser", 0.0), ("p", "winner", 1.0), ("q", "alone", 9.0)])
    assert [row["policy"] for row in found["policies"]] == ["winner", "loser", "alone"]


def test_rank_correlations_by_hand() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    # 1 - 6 · (0 + 1 + 1 + 0) / (4 · 15); 5 concordant, 1 discordant of 6 pairs.
    assert (spearman(x, y), kendall(x, y)) == (pytest.approx(0.8), pytest.approx(4 / 6))
    # With x_2 = x_3 the 5 other pairs of x are all concordant: τ-b = 5 / √(5 · 6).
    assert kendall(np.array([1.0, 2.0, 2.0, 4.0]), y) == pytest.approx(5 / math.sqrt(30))
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: deviations -1.5, 0, 0, 1.5 and -1.5, 0.5, -0.5, 1.5.
    assert spearman(np.array([1.0, 2.0, 2.0, 4.0]), y) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert (spearman(np.ones(4), y), kendall(np.ones(4), y)) == (None, None)


def test_a_leaderboard_is_compared_column_by_column_and_its_strangers_are_named() -> None:
    policies = ["a", "bb", "ccc", "dddd"]  # rewards rise with length
    rows = [(f"p{n}", policy, float(len(policy))) for n in range(3) for policy in policies]
    board = {
        "a": {"wins": 1.0},
        "bb": {"wins": 3.0, "votes": 9.0},
        "ccc": {"wins": 2.0, "votes": 4.0},
        "other": {"wins": 5.0},
    }
    found = run(rows, board)["leaderboard"]
    assert (found["not_on_it"], found["not_in_data"]) == (["dddd"], ["other"])
    wins = found["columns"]["wins"]
    # 1, 2, 3 against 1, 3, 2: 1 - 6 · 2 / (3 · 8), and 2 of 3 pairs concordant.
    assert (wins["policies"], wins["spearman"], wins["kendall"]) == (3, 0.5, pytest.approx(1 / 3))
    assert wins["by_length"]["spearman"] == 0.5
    assert wins["spearman_interval"] is None
    assert found["columns"]["votes"]["spearman"] == -1.0


def test_policies_are_drawn_for_the_interval_of_a_correlation() -> None:
    names = [f"m{n:02d}" for n in range(20)]
    rows = [(f"p{k}", name, float(n)) for k in range(2) for n, name in enumerate(names)]
    noisy = {name: {"wins": float(n + (-1) ** n * 3)} for n, name in enumerate(names)}
    found = run(rows, noisy)["leaderboard"]["columns"]["wins"]
    for kind in ("spearman", "kendall"):
        low, high = found[f"{kind}_interval"]
        assert low < found[kind] < high <= 1
    perfect = {name: {"wins": float(n)} for n, name in enumerate(names)}
    exact = run(rows, perfect)["leaderboard"]["columns"]["wins"]
    assert exact["spearman_interval"] == exact["kendall_interval"] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("meta", [{}, {"policy": 3}, {"policies": ["a", "b"]}])
def test_an_answer_of_nobody_is_an_error(meta: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="does not say whose"):
        rank([Group("p", (Answer("x"),), meta=meta)], [np.array([1.0])], 0.95)


def test_one_policy_cannot_be_ranked() -> None:
    with pytest.raises(DataError, match="two policies or more, the data has a"):
        run([("p", "a", 1.0)])


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(24)), st.floats(0.1, 100))
def test_order_names_and_units_do_not_matter(order: list[int], unit: float) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"p{n // 3}", "abc"[n % 3], float(rng.normal())) for n in range(24)]
    plain = by_name(run(rows))
    new = dict(zip("abc", "zyx", strict=True))
    turned = by_name(run([(rows[n][0], new[rows[n][1]], unit * rows[n][2]) for n in order]))
    for name, row in plain.items():
        assert turned[new[name]]["win_rate"] == row["win_rate"]
        for other, won in row["against"].items():
            found = turned[new[name]]["against"][new[other]]
            assert (found["win_rate"], found["prompts"]) == (won["win_rate"], won["prompts"])
            assert found["interval"] == pytest.approx(won["interval"])


def test_real_policies_by_length_follow_the_length_on_the_leaderboard(shared: Callable[[str], Path]) -> None:
    folder = shared("data/alpaca_eval_policies")
    names = ("alpaca-7b", "alpaca-7b_concise", "alpaca-7b_verbose", "zephyr-7b-beta")
    groups = list(Reader([str(folder / f"{name}.jsonl.gz") for name in names]))
    found = rank(groups, [np.array([float(len(g.answers[0].text))]) for g in groups], 0.95)
    assert [row["policy"] for row in found["policies"]] == [names[3], names[2], names[0], names[1]]
    assert found["prompts"] == 805 and found["common_prompts"] == 802
    for row in found["policies"]:
        assert row["reward"] == row["length"]
