"""``holdtrue ablate`` on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def line(toy_folder: Path, tmp_path: Path) -> list[object]:
    data = [toy_folder / "train.jsonl", "--eval", toy_folder / "eval.jsonl", "--model", toy_folder / "model"]
    values = ["training.max_steps=2", "training.learning_rate=0.02", "loss.center=0.1"]
    settings = [part for value in values for part in ("--set", value)]
    return ["ablate", *data, *settings, "--seeds", "1", "--output", tmp_path / "ablation"]


def test_it_prints_a_row_for_the_recipe_and_every_change(
    holdtrue: Run, line: list[object], tmp_path: Path
) -> None:
    done = holdtrue(*line, "--drop", "loss.center", "--drop", "training.learning_rate=1e-6")
    assert done.code == 0
    rows = [text.split()[0] for text in done.out.splitlines() if text[:1].isalpha()]
    assert rows[:2] == ["recipe", "full"]
    assert {*rows[2:]} == {"loss.center", "training.learning_rate=1e-6", "report"}
    assert "loss.center, seed 42" in done.err and "step" not in done.out
    again = holdtrue(*line, "--drop", "loss.center", "--json")
    assert again.code == 0 and [row["name"] for row in again.value["variants"]] == ["loss.center"]
    assert Path(again.value["report"]) == tmp_path / "ablation" / "report.html"


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        ([], 2, "--drop loss.center"),
        (["--drop", "loss.label_smoothing"], 2, "has its default, 0.0, already"),
        (["--drop", "loss.centre"], 2, "center"),
        (["--drop", "loss.center", "--seeds", "0"], 2, "--seeds"),
        (["--drop", "loss.center", "--set", "data.train=[no.jsonl]"], 3, "no.jsonl does not exist"),
    ],
)
def test_mistakes_have_their_exit_code(
    holdtrue: Run, line: list[object], extra: list[str], code: int, message: str
) -> None:
    done = holdtrue(*line, *extra, "--json")
    assert done.code == code and message in done.error["message"]
