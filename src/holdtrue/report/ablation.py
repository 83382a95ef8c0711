"""The page of an ablation: what each ingredient of the recipe is worth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdtrue.report import experiment_figures, wording
from holdtrue.report.page import render
from holdtrue.rundir import write_text


def write_ablation_report(path: Path, result: dict[str, Any]) -> None:
    """Write the page of what an ablation found (its ``ablation.json``)."""
    variants = result["variants"]
    drawn = {metric: experiment_figures.effects(variants, metric) for metric in experiment_figures.METRICS}
    contents = {
        "name": Path(result["folder"]).resolve().name,
        "headline": headline(result),
        "notes": list(_notes(result)),
        "full": result["full"],
        "variants": [row | {"reading": reading(row)} for row in variants],
        "seeds": result["seeds"],
        "level": f"{100 * result['confidence']:g}%",
    }
    write_text(path, render(contents, {k: v for k, v in drawn.items() if v is not None}, "ablation.jinja"))


def reading(row: dict[str, Any]) -> str:
    """What a variant's difference in accuracy says of the ingredient."""
    if row["accuracy"] is None:
        return "not measured"
    interval = row["accuracy"]["interval"]
    if interval is None:
        return "too few prompts"
    return "helps" if interval[1] < 0 else "hurts" if interval[0] > 0 else "no clear effect"


def headline(result: dict[str, Any]) -> str:
    """The largest clear effect, in a sentence."""
    clear = [row for row in result["variants"] if reading(row) in ("helps", "hurts")]
    if not clear:
        return "No removal changes accuracy by more than chance on these pairs."
    row = max(clear, key=lambda row: abs(row["accuracy"]["difference"]))
    difference, (low, high) = row["accuracy"]["difference"], row["accuracy"]["interval"]
    return (
        f"{'With' if '=' in row['name'] else 'Without'} {row['name']} accuracy is "
        f"{100 * abs(difference):.1f} points {'lower' if difference < 0 else 'higher'} "
        f"({wording.points(low)} to {wording.points(high)} points), the clearest of "
        f"{wording.many(len(result['variants']), 'change')}."
    )


def _notes(result: dict[str, Any]) -> Iterator[str]:
    rows = [result["full"], *result["variants"]]
    for row in rows:
        for seed, reason in row["failed"].items():
            yield f"{row['name']}, seed {seed} failed and is left out: {reason}"
    if len(result["seeds"]) == 1:
        yield "One seed: intervals say nothing of how much another seed would change."
    unscored = max(row["unscored"] for row in rows)
    if unscored:
        count = wording.many(unscored, "comparison")
        yield f"Up to {count} left out where an answer has no reward in some run."
