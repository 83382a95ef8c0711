"""Charts of experiments: the trials of a sweep, the variants of an ablation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from holdtrue.report import plot
from holdtrue.report.plot import Figure, Row

METRICS = {"loss": "log loss (nats)", "accuracy": "accuracy"}


def history(result: Row) -> Figure | None:
    """What each finished trial of a sweep reached, and the best so far."""
    metric = result["metric"]
    finished = [row for row in result["trials"] if row["status"] == "finished"]
    if not finished:
        return None
    best = np.minimum if metric == "loss" else np.maximum
    numbers = [row["number"] for row in finished]
    steps = {"mode": "lines", "name": "best so far", "line": {"color": "--grey", "width": 2, "shape": "hv"}}
    values = [row[metric] for row in finished]
    data = [
        {"type": "scatter", **steps, **plot.xy(list(zip(numbers, best.accumulate(values), strict=True)))},
        _trials(numbers, finished, result),
    ]
    layout = plot.layout("trial", METRICS[metric])
    layout["xaxis"]["range"] = [-0.5, len(result["trials"]) - 0.5]
    layout["showlegend"] = False
    return {"data": data, "layout": _percent(layout, metric)}


def searched(result: Row, key: str) -> Figure | None:
    """What finished trials reached against the value one setting had in them."""
    metric, where = result["metric"], result["space"][key]
    finished = [row for row in result["trials"] if row["status"] == "finished"]
    if not finished:
        return None
    choices = isinstance(where, list)
    x = [plot.label(json.dumps(row["values"][key])) if choices else row["values"][key] for row in finished]
    layout = plot.layout(plot.label(key), METRICS[metric])
    if choices:
        layout["xaxis"] |= {"type": "category", "categoryarray": [plot.label(json.dumps(v)) for v in where]}
    else:
        layout["xaxis"] |= _axis_over(where)
    layout["showlegend"] = False
    return {"data": [_trials(x, finished, result)], "layout": _percent(layout, metric)}


def validations(result: Row) -> Figure | None:
    """The validations of every trial of a sweep while it trained, those of pruned ones set apart."""
    data: list[Row] = []
    looks = {"finished": ("--chosen", "solid"), "pruned": ("--rejected", "solid")}
    for row in result["trials"]:
        if not row["validations"]:
            continue
        colour, dash = looks.get(row["status"], ("--grey", "dot"))
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": row["status"],
                "legendgroup": row["status"],
                "showlegend": row["status"] not in {trace["name"] for trace in data},
                **plot.xy(row["validations"]),
                "line": {"color": colour, "width": 1, "dash": dash},
                "marker": {"color": colour, "size": 4},
                "opacity": 0.7,
                "hovertemplate": f"trial {row['number']}, validation %{{x}}: %{{y:.4g}}<extra></extra>",
            }
        )
    layout = plot.layout("validation", result["validation"])
    layout["xaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout} if data else None


def effects(variants: Sequence[Row], metric: str) -> Figure | None:
    """Differences of an ablation's variants from the full recipe with intervals, and each seed's own."""
    rows = [(plot.label(row["name"]), row[metric]) for row in variants if row[metric]]
    if not rows:
        return None
    place = list(range(len(rows)))
    names = [f"<b>{name}</b>" for name, _ in rows]
    unit = ".2%" if metric == "accuracy" else ".4f"
    seeds = [(value, i) for i, (_, row) in enumerate(rows) for value in row["difference_by_seed"]]
    middle = [row["difference"] for _, row in rows]
    spans = [row["interval"] or (row["difference"], row["difference"]) for _, row in rows]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "each seed",
            **plot.xy(seeds),
            "marker": {"color": "--grey", "size": 6, "symbol": "line-ns-open"},
            "hovertemplate": f"one seed: %{{x:{unit}}}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "mean and interval",
            "x": [plot.short(x) for x in middle],
            "y": place,
            "error_x": plot.errors(middle, [list(bounds) for bounds in spans]),
            "marker": {"color": "--chosen", "size": 8},
            "hovertemplate": f"%{{x:{unit}}}<extra></extra>",
        },
    ]
    layout = plot.layout(f"{METRICS[metric]}: without − with", "", height=110 + 30 * len(rows))
    layout["yaxis"] |= {"tickvals": place, "ticktext": names, "range": [len(rows) - 0.4, -0.6]}
    layout["yaxis"] |= {"showgrid": False, "zeroline": False}
    layout["shapes"] = [plot.line("v", 0) | {"layer": "above"}]
    return {"data": data, "layout": _percent(layout, metric, axis="xaxis")}


def _trials(x: Sequence[Any], rows: Sequence[Row], result: Row) -> Row:
    """A point per finished trial, the best in another colour."""
    metric, best = result["metric"], result["best"]["number"]
    unit = ".1%" if metric == "accuracy" else ".4g"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "trial",
        "x": list(x),
        "y": [plot.short(row[metric]) for row in rows],
        "customdata": [row["number"] for row in rows],
        "marker": {
            "color": ["--rejected" if row["number"] == best else "--chosen" for row in rows],
            "size": 8,
            "opacity": 0.8,
        },
        "hovertemplate": f"trial %{{customdata}}: %{{y:{unit}}}<extra></extra>",
    }


def _axis_over(where: Row) -> Row:
    """An axis from end to end of a range that was searched."""
    ends = np.array([where["low"], where["high"]])
    low, high = np.log10(ends) if where["log"] else ends
    room = 0.04 * (high - low)
    axis: Row = {"range": [plot.short(low - room), plot.short(high + room)]}
    if where["log"]:
        axis |= {"type": "log", "dtick": 1 if high - low >= 2 else "D2", "exponentformat": "e"}
    return axis


def _percent(layout: Row, metric: str, axis: str = "yaxis") -> Row:
    """The layout with percentages on the axis where the metric is a share."""
    if metric == "accuracy":
        layout[axis]["tickformat"] = ".1%"
    return layout
