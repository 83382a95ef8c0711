"""Charts of a gold world: the frontier of gold and drift, and what happens round by round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from holdtrue.report import plot
from holdtrue.report.plot import Figure, Row

_DASHES = ("solid", "dash", "dot", "dashdot")
BEFORE, AFTER = "in use", "refreshed"


def frontier(result: Row) -> Figure | None:
    """Mean gold of each arm against √KL, and best of n where it was measured."""
    data = [
        _line(arm, i, [(math.sqrt(p["kl"]), p["gold"]) for p in own["way"]])
        for i, (arm, own) in enumerate(result["arms"].items())
    ]
    if result["best_of_n"]:
        points = [(math.sqrt(p["kl"]), p["gold"]) for p in result["best_of_n"]["points"]]
        data.append(_line("best of n", None, points))
    layout = plot.layout("√KL (KL in nats)", "gold (sd of the first policy)", height=420)
    layout["shapes"] = [plot.line("h", 0), plot.line("v", math.sqrt(result["primary_kl"]))]
    return {"data": data, "layout": layout} if any(trace["x"] for trace in data) else None


def proxy(result: Row) -> Figure | None:
    """What the control's proxies believe, beside the gold."""
    own = result["arms"].get(result["control"])
    if not own or not own["way"]:
        return None
    named = {"proxy": ("proxy", 1), "gold": ("gold", 0)}
    data = [
        _line(name, place, [(math.sqrt(p["kl"]), p[column]) for p in own["way"]])
        for column, (name, place) in named.items()
    ]
    layout = plot.layout("√KL (KL in nats)", "reward (sd of the first policy)")
    layout["shapes"] = [plot.line("h", 0)]
    return {"data": data, "layout": layout}


def by_round(result: Row, column: str, title: str) -> Figure | None:
    """A number of each arm, round by round."""
    data = [
        _line(arm, i, [(row["round"], row[column]) for row in own["rounds"]])
        for i, (arm, own) in enumerate(result["arms"].items())
    ]
    data = [trace for trace in data if trace["x"]]
    layout = plot.layout("round", title)
    layout["xaxis"]["dtick"] = 1
    if column.startswith("accuracy"):
        layout["yaxis"]["tickformat"] = ".0%"
        layout["shapes"] = [plot.line("h", 0.5)]
    return {"data": data, "layout": layout} if data else None


def differences(result: Row) -> Figure | None:
    """Gold at the primary KL of each arm less the control's, with intervals over seeds."""
    rows = [(arm, own) for arm, own in result["primary"].items() if own["interval"]]
    if not rows:
        return None
    middle = [own["mean"] for _, own in rows]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [plot.short(x) for x in middle],
        "y": list(range(len(rows))),
        "error_x": plot.errors(middle, [own["interval"] for _, own in rows]),
        "marker": {"color": "--chosen", "size": 8},
        "hovertemplate": "%{x:.3f}<extra></extra>",
    }
    what = "share with control tokens" if result["habit"] else "gold"
    title = f"{what} less that of {plot.label(result['control'])}"
    layout = plot.layout(title, "", height=110 + 30 * len(rows))
    names = [f"<b>{plot.label(arm)}</b>" for arm, _ in rows]
    layout["yaxis"] |= {"tickvals": trace["y"], "ticktext": names, "range": [len(rows) - 0.4, -0.6]}
    layout["yaxis"] |= {"showgrid": False, "zeroline": False}
    layout["shapes"] = [plot.line("v", 0) | {"layer": "above"}]
    return {"data": [trace], "layout": layout}


def _line(name: str, place: int | None, points: Sequence[tuple[float, Mapping[str, Any]]]) -> Row:
    """A line with the intervals of its points; the one without a place is grey."""
    known = [(x, found["mean"], found["interval"]) for x, found in points if found["mean"] is not None]
    colour = "--grey" if place is None else plot.COLOURS[place % len(plot.COLOURS)]
    dash = "dot" if place is None else _DASHES[place // len(plot.COLOURS) % len(_DASHES)]
    middle = [mean for _, mean, _ in known]
    spans = [list(interval or (mean, mean)) for _, mean, interval in known]
    return plot.trace(name, [(x, mean) for x, mean, _ in known], colour) | {
        "error_y": plot.errors(middle, spans) | {"color": colour, "thickness": 1},
        "line": {"color": colour, "width": 2, "dash": dash},
        "hovertemplate": f"{plot.label(name)}: %{{y:.3f}} at %{{x:.3g}}<extra></extra>",
    }
