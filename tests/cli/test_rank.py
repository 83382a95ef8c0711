"""``holdtrue rank``: policies of several files, and a leaderboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
TEXTS = {"one": "a", "two": "bb", "three": "ab"}


@pytest.fixture
def answers(tmp_path: Path) -> list[Path]:
    """A file per policy, each with the same answer to all of 12 prompts."""
    paths = []
    for policy, text in TEXTS.items():
        rows = [{"prompt": f"q{n}", "completion": text, "policy": policy} for n in range(12)]
        paths.append(tmp_path / f"{policy}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def write_board(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_policies_are_ranked_and_set_beside_the_leaderboard(
    holdtrue: Run, toy_run: Path, answers: list[Path], tmp_path: Path
) -> None:
    rows = [{"policy": name, "win_rate": len(name), "note": "x", "tuned": True} for name in TEXTS]
    board = write_board(tmp_path / "board.jsonl", rows)
    done = holdtrue("rank", toy_run, *answers, "--leaderboard", board, "--json")
    assert done.code == 0 and (done.value["prompts"], done.value["common_prompts"]) == (12, 12)
    rates = {row["policy"]: row["win_rate"] for row in done.value["policies"]}
    assert rates.keys() == TEXTS.keys() and sum(rates.values()) == pytest.approx(1.5)
    assert list(done.value["leaderboard"]["columns"]) == ["win_rate"]
    text = holdtrue("rank", toy_run, *answers, "--leaderboard", board).out
    assert "36 answers of 3 policies to 12 prompts, 12 answered by all" in text
    assert "mean win rate" in text and "Spearman" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "one", "win_rate": 1}], "needs a name in the column 'policy'"),
        ([{"policy": "one", "win_rate": 1}] * 2, "one is there twice"),
        ([{"policy": "one", "win_rate": "high"}], "no column of numbers"),
    ],
)
def test_what_is_no_leaderboard_ends_with_3(
    holdtrue: Run, toy_run: Path, answers: list[Path], tmp_path: Path, rows: list[Any], message: str
) -> None:
    board = write_board(tmp_path / "board.jsonl", rows)
    done = holdtrue("rank", toy_run, *answers, "--leaderboard", board, "--json")
    assert done.code == 3 and message in done.error["message"]


def test_a_missing_leaderboard_and_rows_without_policy_end_with_3(
    holdtrue: Run, toy_run: Path, toy_folder: Path, answers: list[Path]
) -> None:
    gone = holdtrue("rank", toy_run, *answers, "--leaderboard", "gone.jsonl", "--json")
    assert gone.code == 3 and "gone.jsonl does not exist" in gone.error["message"]
    done = holdtrue("rank", toy_run, toy_folder / "eval.jsonl", "--json")
    assert done.code == 3 and "does not say whose" in done.error["message"]
