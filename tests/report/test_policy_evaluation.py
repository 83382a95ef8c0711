"""The page of a policy's evaluation, from results written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdtrue.records import Rollout
from holdtrue.report import policy_evaluation as report

HALF = {"mean": 0.5, "interval": [0.4, 0.6]}


def described(policy: str, **changes: Any) -> dict[str, Any]:
    zero = {"mean": 0.0, "interval": [0.0, 0.1]}
    return {
        "policy": policy,
        "answers": 20,
        "rewards": {"j": {"mean": -1.25, "interval": [-1.5, -1.0], "unscored": 0, "success": None}},
        "length": {"mean": 12.0, "interval": None},
        "finish": {"stop": HALF, "length": HALF, "loop": zero, "control": zero},
        "flags": {"degenerate": zero, "mojibake": zero, "tail_cycle": HALF},
        "seconds_per_answer": 0.0123,
        **changes,
    }


def result(*policies: str, rate: tuple[float, float, float] = (0.5, 0.4, 0.6)) -> dict[str, Any]:
    won = {"mean": rate[0], "interval": list(rate[1:])}
    against = {"j": {"win_rate": won, "difference": {"mean": 0.5, "interval": [0.25, 0.75]}, "prompts": 20}}
    return {
        "judges": ["j"],
        "prompts": 20,
        "group": 1,
        "left_out": {"trained on by runs/rl": 1200},
        "notes": ["a note"],
        "policies": [described(name) for name in policies],
        "against": against if len(policies) == 2 else None,
        "slices": {},
        "decoding": {"max_new_tokens": 64, "temperature": 0.7, "top_k": 0, "top_p": 0.9},
        "seed": 3,
        "confidence": 0.95,
        "success": None,
    }


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ((0.7, 0.6, 0.8), "a is better than b: it wins 70.0% (60.0–80.0%) by j, on 20 prompts."),
        ((0.3, 0.2, 0.4), "a is worse than b: it wins 30.0%"),
        ((0.5, 0.4, 0.6), "a is not shown to differ from b: it wins 50.0%"),
    ],
)
def test_the_headline_says_better_or_worse_only_where_the_interval_does(rate: Any, said: str) -> None:
    assert report.headline(result("runs/a", "runs/b", rate=rate)).startswith(said)


def test_one_policy_is_said_by_its_mean_reward_and_how_answers_were_drawn() -> None:
    value = result("runs/a")
    assert report.headline(value) == "a: mean reward −1.25 (−1.5 to −1) by j, on 20 prompts."
    assert report.how(value) == (
        "1 answer to each prompt, seed 3, temperature 0.7, top p 0.9, at most 64 tokens; 95% intervals over "
        "prompts"
    )
    assert list(report.left_out(value)) == ["Prompts left out: 1,200 trained on by runs/rl."]


def test_only_what_happened_to_some_policy_has_a_row_but_ends_and_degeneration_always_do() -> None:
    rows = dict(report.measures(result("runs/a", "runs/b")))
    assert list(rows) == [
        "mean reward, j",
        "length in tokens",
        "ended by an end token",
        "cut at the longest length",
        "degenerate",
        "tail cycle",
        "seconds per answer",
    ]
    assert rows["length in tokens"] == ["12 (too few prompts)"] * 2
    counted = result("a")
    counted["success"] = 0.5
    counted["policies"][0]["rewards"]["j"] |= {"unscored": 3, "success": HALF}
    found = dict(report.measures(counted))
    assert found["reward ≥ 0.5, j"] == ["50.0% (40.0–60.0%)"] and found["without a reward, j"] == [
        "3 answers"
    ]


def test_what_was_looked_for_in_one_policy_alone_is_no_zero_of_the_other() -> None:
    value = result("a", "b")
    del value["policies"][1]["flags"]["tail_cycle"]
    assert dict(report.measures(value))["tail cycle"] == ["50.0% (40.0–60.0%)", "not looked for"]


def test_policies_are_named_in_short_where_that_tells_them_apart() -> None:
    assert report.short_names(result("runs/a", "runs/b")) == ["a", "b"]
    assert report.short_names(result("a/model", "b/model")) == ["a/model", "b/model"]


def test_a_slice_of_a_judge_that_compares_has_wins_and_no_reward() -> None:
    value = result("a", "b")
    row = {"value": "x", "prompts": 20, "policies": value["policies"], "against": value["against"]}
    heads, cells = report.slice_table(value, [row])
    assert heads == ["value", "prompts", "a wins", "reward, a", "reward, b", "degenerate, a", "degenerate, b"]
    assert len(cells[0]) == len(heads) and cells[0][2] == "50.0% (40.0–60.0%)"
    for one in value["policies"]:
        one["rewards"] = {}
    heads, cells = report.slice_table(value, [row])
    assert heads == ["value", "prompts", "a wins", "degenerate, a", "degenerate, b"]
    assert len(cells[0]) == len(heads)


def test_the_page_shows_answers_side_by_side_and_escapes_every_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    sides = [
        Rollout(f"ask {evil}", f"say {evil}", [1, 2], reward=2.0, finish="stop", policy="runs/a"),
        Rollout(f"ask {evil}", "fine", [1], reward=0.5, finish="length", policy="runs/b"),
    ]
    unscored = [Rollout("p", "x", [1], finish="stop"), Rollout("p", "y", [1], finish="stop")]
    value = result("runs/a", "runs/b") | {"judges": ["j"], "notes": [evil]}
    file = tmp_path / evil.replace("/", "") / "report.html"
    file.parent.mkdir()
    report.write_policy_report(file, value, [sides, unscored], 1)
    page = file.read_text(encoding="utf-8")
    assert evil not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert "difference +1.500" in page and "at random" in page
    assert "reward 2 · 2 tokens · ended by an end token" in page and "reward undefined" in page
    assert "script-src" in page and "<script>" not in page.replace(evil, "")
