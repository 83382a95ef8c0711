"""The page of a gold world: which refresh keeps gold, at equal drift."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdtrue.report import goldworld_figures as figures
from holdtrue.report import wording
from holdtrue.report.page import render
from holdtrue.rundir import write_text

Row = dict[str, Any]


def write_goldworld_report(path: Path, result: Row) -> None:
    """Write the page of what a gold world found (its ``goldworld.json``)."""
    drawn = {
        "frontier": figures.frontier(result),
        "differences": figures.differences(result),
        "proxy": figures.proxy(result),
        "gold": figures.by_round(result, "gold", "gold of fresh answers"),
        "spread": figures.by_round(result, "relative_spread", "spread / first policy's"),
        "accuracy": figures.by_round(result, "accuracy", "model in use"),
        "accuracy_after": figures.by_round(result, "accuracy_after", "refreshed model"),
    }
    contents = {
        "name": Path(result["folder"]).resolve().name,
        "headline": headline(result),
        "notes": list(_notes(result)),
        "result": result,
        "columns": list(_columns(result)),
    }
    found = {name: figure for name, figure in drawn.items() if figure is not None}
    write_text(path, render(contents, found, "goldworld.jinja"))


def headline(result: Row) -> str:
    """The primary outcome, in a sentence or two."""
    control, k = result["control"], result["primary_kl"]
    known = {arm: own for arm, own in result["primary"].items() if own["interval"]}
    if not known:
        return "Too few seeds are finished to compare arms."
    better = {arm: own for arm, own in known.items() if own["interval"][0] > 0}
    worse = [arm for arm, own in known.items() if own["interval"][1] < 0]
    said = f"At a KL of {k:g} nats "
    if better:
        parts = (f"{arm} ({wording.measured(own, sign=True)})" for arm, own in better.items())
        said += f"more gold than {control}: {', '.join(parts)}."
    else:
        said += f"no arm is shown to keep more gold than {control}."
    return said + (f" Less: {', '.join(worse)}." if worse else "")


def _columns(result: Row) -> Iterator[tuple[str, str]]:
    first: Row = next(iter(result["arms"].values()), {})
    yield from (
        (name, f"gold at KL {name.rpartition('_')[2]}") for name in first if name.startswith("gold_at")
    )
    yield "area", f"mean gold up to KL {result['primary_kl']:g}"
    yield "final_gold", "final gold"
    yield "final_kl", "final KL"
    yield "on_policy_accuracy", "accuracy on the policy's answers"


def _notes(result: Row) -> Iterator[str]:
    if result["missing"]:
        yield f"Left out, not finished yet: {wording.many(result['missing'], 'run')} of an arm and a seed."
    k = f"{result['primary_kl']:g}"
    for arm, own in result["arms"].items():
        reached, ran = own[f"gold_at_kl_{k}"]["seeds"], len(own["seeds"])
        if reached < ran:
            yield f"{arm} reached a KL of {k} in {reached} of {ran} seeds; its gold there is of those alone."
