"""``holdtrue sweep`` on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]


@pytest.fixture
def file(toy_folder: Path, tmp_path: Path) -> Path:
    values = {
        "model": {"path": str(toy_folder / "model")},
        "data": {"eval": [str(toy_folder / "eval.jsonl")]},
        "training": {"max_steps": 2, "eval_steps": 1},
        "sweep": {"space": {"training.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}, "trials": 2},
    }
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_it_prints_the_trials_and_goes_on_from_its_folder_alone(
    holdtrue: Run, file: Path, toy_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    done = holdtrue("sweep", file, toy_folder / "train.jsonl", "-o", folder)
    assert done.code == 0
    assert "trial 0 of 2  training.learning_rate=" in done.err and "validation" in done.err
    assert "finished" in done.out and str(folder / "best.yaml") in done.out and "step" not in done.out
    more = holdtrue("sweep", "-o", folder, "--trials", "3", "--json")
    assert more.code == 0 and len(more.value["trials"]) == 3
    assert more.value["best"]["number"] in range(3) and Path(more.value["report"]).exists()
    trained = holdtrue("train", folder / "best.yaml", "-o", tmp_path / "run", "--json")
    assert trained.value["evaluation"]["loss"] == more.value["best"]["loss"]


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        ([], 2, "--output"),
        (["-o", "sweep", "--trials", "0"], 2, "--trials"),
        (["-o", "sweep", "--set", "sweep.pruner=hyperband"], 2, "sweep.pruner"),
        (["-o", "sweep", "--set", "sweep.space={}"], 2, "no search space"),
        (
            ["-o", "sweep", "--set", "sweep.space={training.lerning_rate: [1, 2]}"],
            2,
            "training.learning_rate",
        ),
        (["-o", "sweep", "no.jsonl"], 3, "no.jsonl does not exist"),
        (["-o", "/proc/nowhere/sweep"], 3, "cannot write /proc/nowhere/sweep"),
    ],
)
def test_mistakes_have_their_exit_code(
    holdtrue: Run,
    file: Path,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = [] if "no.jsonl" in extra else [toy_folder / "train.jsonl"]
    done = holdtrue("sweep", file, *data, *extra, "--json")
    assert done.code == code and message in done.error["message"]


def test_a_sweep_without_a_finished_trial_ends_with_4(
    holdtrue: Run, file: Path, toy_folder: Path, tmp_path: Path
) -> None:
    line = ["sweep", file, toy_folder / "train.jsonl", "-o", tmp_path / "sweep", "--trials", "1", "--json"]
    done = holdtrue(*line, "--set", "sweep.space={data.max_length: [2, 3]}")
    assert done.code == 4 and "none of the 1 trials finished" in done.error["message"]
