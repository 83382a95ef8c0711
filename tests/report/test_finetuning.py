"""The page of a fine-tuning run, of runs written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdtrue.report.finetuning import write_finetuning_report
from holdtrue.rundir import RunDir, append_jsonl, write_json


def page(folder: Path, rows: list[dict[str, Any]], **info: Any) -> str:
    run = RunDir.create(folder, {"task": "sft", "seed": "<script>alert(1)</script>"})
    write_json(run.info_file, {"status": "finished", **info})
    if rows:
        append_jsonl(run.metrics_file, rows)
    return write_finetuning_report(run).read_text(encoding="utf-8")


def row(event: str, step: int, loss: float | None, accuracy: float | None = None) -> dict[str, Any]:
    return {"event": event, "step": step, "loss": loss, "accuracy": accuracy}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "No step is logged."),
        ([row("train", 1, None)], "No step is logged."),
        (
            [row("train", 1, 3.0), row("train", 2, 2.5)],
            "The training loss went from 3 (step 1) to 2.5 (step 2) nats per token.",
        ),
        (
            [row("eval", 1, 3.0, 0.1), row("eval", 2, 2.0, 0.25), row("eval", 3, 2.5, 0.3)],
            "The validation loss went from 3 (step 1) to 2 (step 2) nats per token at its lowest; the "
            "likeliest token is right in 25.0%.",
        ),
    ],
)
def test_the_headline_is_the_validation_loss_or_that_of_training(
    tmp_path: Path, rows: Any, said: str
) -> None:
    assert said in page(tmp_path / "run", rows)


def test_it_says_which_policy_was_saved_and_what_went_wrong(tmp_path: Path) -> None:
    rows = [row("train", 1, 3.0) | {"skipped": 2}, row("eval", 1, 2.0)]
    html = page(tmp_path / "run", rows, status="interrupted", best_step=1, steps=4)
    assert "The policy that was saved is that of step 1, the best of 4." in html
    assert "The run was interrupted and can be resumed" in html
    assert "2 steps had a non-finite loss" in html
    assert "holdtrue evaluate”" not in html and "<script>alert" not in html
