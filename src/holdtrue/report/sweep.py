"""The page of a sweep: which trial was best, how the search went, what each setting did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdtrue.report import experiment_figures, wording
from holdtrue.report.page import render
from holdtrue.rundir import write_text

_STATUSES = ("finished", "pruned", "failed", "unfinished")


def write_sweep_report(path: Path, result: dict[str, Any]) -> None:
    """Write the page of what a sweep found (its ``sweep.json``)."""
    trials, metric = result["trials"], result["metric"]
    sign = 1 if metric == "loss" else -1
    order = {status: place for place, status in enumerate(_STATUSES)}
    ranked = sorted(trials, key=lambda row: (order[row["status"]], sign * (row[metric] or 0), row["number"]))
    drawn = {
        "history": experiment_figures.history(result),
        "validations": experiment_figures.validations(result),
    }
    keys = {f"searched-{i}": key for i, key in enumerate(result["space"])}
    drawn |= {name: experiment_figures.searched(result, key) for name, key in keys.items()}
    contents = {
        "name": Path(result["folder"]).resolve().name,
        "headline": headline(result),
        "notes": list(_notes(result)),
        "tiles": list(_tiles(result)),
        "keys": keys,
        "trials": ranked,
        "best": result["best"],
        "metric": experiment_figures.METRICS[metric],
        "metric_name": metric,
        "validation": result["validation"],
    }
    write_text(path, render(contents, {k: v for k, v in drawn.items() if v is not None}, "sweep.jinja"))


def headline(result: dict[str, Any]) -> str:
    """What was found, in a sentence."""
    best, count = result["best"], len(result["trials"])
    if best is None:
        return f"None of {wording.many(count, 'trial')} has finished."
    accuracy = (
        ""
        if best["accuracy"] is None
        else (f" and an accuracy of {wording.percent(best['accuracy'])} ({wording.span(best['interval'])})")
    )
    return (
        f"Of {wording.many(count, 'trial')} number {best['number']} is the best by {result['metric']}: "
        f"a log loss of {best['loss']:.4f} nats{accuracy} on "
        f"{wording.many(best['count'], 'held-out comparison')}."
    )


def _notes(result: dict[str, Any]) -> Iterator[str]:
    trials = result["trials"]
    if len(trials) < result["asked"] or any(row["status"] == "unfinished" for row in trials):
        ended = sum(row["status"] != "unfinished" for row in trials)
        yield f"The sweep is not complete: {ended} of {result['asked']} trials have ended."
    counts = sorted({row["count"] for row in trials if row["count"] is not None})
    if len(counts) > 1:
        yield (
            f"The trials were not measured on the same comparisons ({counts[0]:,} to {counts[-1]:,}), as "
            "settings of the search decide which fit."
        )


def _tiles(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    found = Counter(row["status"] for row in result["trials"])
    if best := result["best"]:
        yield "Best log loss", f"{best['loss']:.4f}", f"nats, trial {best['number']}"
        if best["accuracy"] is not None:
            yield "Its accuracy", wording.percent(best["accuracy"]), wording.span(best["interval"])
    others = ", ".join(f"{found[status]} {status}" for status in _STATUSES[1:] if found[status])
    yield "Trials finished", f"{found['finished']}", others or "all of them"
    yield "Time", wording.duration(sum(row["seconds"] or 0 for row in result["trials"])), "training"
