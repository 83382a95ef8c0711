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
        "columns": columns(result),
    }
    found = {name: figure for name, figure in drawn.items() if figure is not None}
    write_text(path, render(contents, found, "goldworld.jinja"))


def headline(result: Row) -> str:
    """The primary outcome, in a sentence or two."""
    control = result["control"]
    known = {arm: own for arm, own in result["primary"].items() if own["interval"]}
    if not known:
        return "Too few seeds are finished to compare arms."
    above = {arm: own for arm, own in known.items() if own["interval"][0] > 0}
    below = {arm: own for arm, own in known.items() if own["interval"][1] < 0}
    if result["habit"]:
        before = result["arms"][control]["before_control_rate"]["mean"]
        said = f"{before:.0%} of the answers hold control tokens before optimisation. "
        better, worse, more, less = below, above, "Fewer afterwards than", "More"
    else:
        said = f"At a KL of {result['primary_kl']:g} nats "
        better, worse, more, less = above, below, "more gold than", "Less"
    if better:
        parts = (f"{arm} ({wording.measured(own, sign=True)})" for arm, own in better.items())
        said += f"{more} {control}: {', '.join(parts)}."
    elif result["habit"]:
        said += f"No remedy is shown to leave fewer than {control}."
    else:
        said += f"no arm is shown to keep more gold than {control}."
    return said + (f" {less}: {', '.join(worse)}." if worse else "")


def columns(result: Row) -> list[tuple[str, str]]:
    """What tables show of every arm: the key of a number and its title."""
    if result["habit"]:
        return [
            ("before_control_rate", "control tokens after fine-tuning"),
            ("control_rate", "after optimisation"),
            ("degenerate", "degenerate"),
            ("final_gold", "gold"),
            ("final_kl", "KL to the healthy policy"),
            ("alarm_step", "first alarm, step"),
        ]
    first: Row = next(iter(result["arms"].values()), {})
    return [
        *((name, f"gold at KL {name.rpartition('_')[2]}") for name in first if name.startswith("gold_at_kl")),
        ("area", f"mean gold up to KL {result['primary_kl']:g}"),
        ("final_gold", "final gold"),
        ("final_kl", "final KL"),
        ("on_policy_accuracy", "accuracy of the models in use"),
        ("refreshed_accuracy", "of the refreshed ones"),
    ]


def _notes(result: Row) -> Iterator[str]:
    if result["missing"]:
        yield f"Left out, not finished yet: {wording.many(result['missing'], 'run')} of an arm and a seed."
    for arm, reasons in result["failed"].items():
        seeds = ", ".join(reasons)
        yield f"{arm} failed with seed {seeds} and is left out there: {next(iter(reasons.values()))}"
    if result["habit"]:
        return
    k = f"{result['primary_kl']:g}"
    for arm, own in result["arms"].items():
        reached, ran = own[f"gold_at_kl_{k}"]["seeds"], len(own["seeds"])
        if reached < ran:
            yield f"{arm} reached a KL of {k} in {reached} of {ran} seeds; its gold there is of those alone."
