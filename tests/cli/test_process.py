"""Process reward models through the command line: trained on judged steps, evaluated, scored, verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
AS_PROCESS = ("--set", "model.kind=process", "--set", "loss=step_cross_entropy")


def write(file: Path, *labels: list[Any]) -> Path:
    said = [
        {"prompt": f"Number {i}?", "completions": ["It is good.", "It is bad."], "labels": own}
        for i, own in enumerate(labels)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    return file


def line(base: Path, data: Path, run: Path, *more: object) -> list[object]:
    start: list[object] = ["train", data, "--model", base, "--output", run, *AS_PROCESS]
    return [*start, "--set", "training.learning_rate=0.03", "--set", "training.num_train_epochs=6", *more]


def test_judged_steps_are_learned_and_every_verb_knows_them(
    holdtrue: Run, base_model: Callable[..., Path], tmp_path: Path
) -> None:
    data, run = write(tmp_path / "steps.jsonl", *[[True, False]] * 40), tmp_path / "run"
    done = holdtrue(*line(base_model(), data, run))
    assert done.code == 0 and "steps" in done.out and "accuracy" not in done.out
    found = holdtrue("evaluate", run, data, "--json").value["steps"]
    assert found["count"] == 80 and found["right_steps"] == 40 and found["unmatched"] == 0
    assert found["auc"] == 1.0 and found["right_at_zero"] == 1.0
    assert holdtrue("score", run, data, "--output", tmp_path / "scored.jsonl").code == 0
    row = json.loads((tmp_path / "scored.jsonl").read_text(encoding="utf-8").splitlines()[0])
    ((good, bad),) = row["steps"]
    assert good > 0 > bad and row["rewards"] == [bad]
    assert holdtrue("verify", run).code == 0


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([[1, -1]] * 4, "a step is valued -1, outside of 0 to 1; set loss.lowest and loss.highest"),
        ([[None, None]] * 4, "learns from judged steps, which none of the 4 training rows (steps) holds"),
    ],
)
def test_judgements_that_cannot_be_learned_from_stop_before_training(
    holdtrue: Run, base_model: Callable[..., Path], tmp_path: Path, labels: list[list[Any]], said: str
) -> None:
    data = write(tmp_path / "steps.jsonl", *labels)
    done = holdtrue(*line(base_model(), data, tmp_path / "run", "--set", "data.eval_fraction=0"))
    assert done.code == 3 and said in done.err


def test_steps_need_a_process_model_and_say_so(
    holdtrue: Run, base_model: Callable[..., Path], tmp_path: Path
) -> None:
    data = write(tmp_path / "steps.jsonl", [1, 0])
    done = holdtrue(*line(base_model(), data, tmp_path / "run", "--set", "model.kind=scalar"))
    assert done.code == 2 and "set model.kind to one it trains: process" in done.err
