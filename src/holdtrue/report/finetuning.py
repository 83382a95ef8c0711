"""The page of a fine-tuning run: its curves, what was left out, settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdtrue.report import figures, wording
from holdtrue.report.page import render
from holdtrue.report.sources import Sources, facts, flatten, read_sources
from holdtrue.rundir import RunDir, disk_errors, write_text


def write_finetuning_report(run: RunDir) -> Path:
    """Write ``report.html`` of a fine-tuning run, as far as it got; returns its path.

    Raises:
        DataError: a file of the run is broken. ResourceError: the disk is full.
    """
    sources = read_sources(run)
    contents = {
        "name": sources.name,
        "path": str(run.path),
        "headline": headline(sources),
        "notes": list(notes(sources)),
        "left_out": sources.left_out,
        "left_out_files": sources.left_out_files,
        "counted": bool(sources.info.get("data")),
        "facts": list(facts(sources)),
        "settings": list(flatten(sources.settings)),
    }
    drawn = {
        "loss": figures.curve(sources.metrics, "loss", "loss (nats per token)"),
        "accuracy": figures.curve(sources.metrics, "accuracy", "likeliest token right"),
        "learning_rate": figures.curve(sources.metrics, "learning_rate", "learning rate"),
    }
    if drawn["accuracy"]:
        drawn["accuracy"]["layout"]["shapes"] = []  # the line of a coin flip means nothing here
    known = {name: figure for name, figure in drawn.items() if figure is not None}
    with disk_errors(run.report_file):
        write_text(run.report_file, render(contents, known, "finetuning.jinja"))
    return run.report_file


def headline(sources: Sources) -> str:
    """The validation loss from the first evaluation to the best, or the training loss."""
    for event, what in (("eval", "validation"), ("train", "training")):
        rows = [row for row in sources.metrics if row["event"] == event and row.get("loss") is not None]
        if rows:
            best = min(rows, key=lambda row: row["loss"]) if event == "eval" else rows[-1]
            right = best.get("accuracy")
            also = "" if right is None else f"; the likeliest token is right in {wording.percent(right)}"
            return (
                f"The {what} loss went from {_loss(rows[0])} to {_loss(best)} nats per token"
                f"{' at its lowest' if event == 'eval' else ''}{also}."
            )
    return "No step is logged."


def _loss(row: dict[str, Any]) -> str:
    return f"{wording.number(row['loss'])} (step {row['step']:,})"


def notes(sources: Sources) -> Iterator[str]:
    """What is unfinished or went wrong, and what to do next."""
    # those of a reward model's run, but for its evaluation
    yield from wording.notes(sources.info, sources.metrics, {})
    best, steps = sources.info.get("best_step"), sources.info.get("steps")
    if best is not None and best < steps:
        yield f"The policy that was saved is that of step {best:,}, the best of {steps:,}."
