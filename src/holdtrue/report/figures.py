"""Charts as plotly figures: plain dicts of traces and layout, drawn by the reader's browser.

A colour is the name of a CSS variable of the page (``--chosen``), put in by ``charts.js``, so that all
charts share the page's palette in light and dark. Plotly reads strings as a little HTML of its own, so
every text that comes from data is escaped here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

Figure = dict[str, Any]
Row = dict[str, Any]

_MOST_POINTS = 600
_LONGEST_LABEL = 40
_HEIGHT = 320
MOST_SLICES = 60
METRICS = {"loss": "log loss (nats)", "accuracy": "accuracy"}


def curve(metrics: Sequence[Row], key: str, title: str) -> Figure | None:
    """Training (mean of neighbouring steps where there are many) and validation values over the steps."""
    train = _points(metrics, "train", key)
    validation = _points(metrics, "eval", key)
    if not train and not validation:
        return None
    percent = key == "accuracy"
    style = {"mode": "lines", "hovertemplate": f"step %{{x}}: %{{y:{'.1%' if percent else '.4g'}}}"}
    traces = []
    if train:
        thin = _thin(train, _MOST_POINTS)
        faint = {"name": "training, each step", "line": {"color": "--faint", "width": 1}}
        smooth = _thin(train, 40) if len(train) > 80 else []
        if smooth:
            traces.append(_xy(thin) | style | faint | {"hoverinfo": "skip", "hovertemplate": None})
            traces.append(_xy(smooth) | style | {"name": "training", "line": {"color": "--grey", "width": 2}})
        else:
            traces.append(_xy(thin) | style | {"name": "training", "line": {"color": "--grey", "width": 2}})
    if validation:
        line = {"color": "--chosen", "width": 2}
        marks = {"mode": "lines+markers", "marker": {"color": "--chosen", "size": 6}}
        traces.append(_xy(validation) | style | marks | {"name": "validation", "line": line})
    layout = _layout("optimiser step", title, height=_HEIGHT)
    layout["xaxis"]["rangemode"] = "tozero"
    if percent:
        layout["yaxis"]["tickformat"] = ".0%"
        layout["shapes"] = [_line("h", 0.5)]
    return {"data": [{"type": "scatter"} | trace for trace in traces], "layout": layout}


def margins(result: Row) -> Figure | None:
    """Histogram of reward(preferred) - reward(other); bars below 0 are mistakes."""
    edges, counts = result["margins"]["edges"], result["margins"]["counts"]
    if not counts:
        return None
    data = [
        _bars(edges, counts, [high > 0 for high in edges[1:]], "preferred answer higher", "--chosen"),
        _bars(edges, counts, [high <= 0 for high in edges[1:]], "preferred answer lower", "--rejected"),
    ]
    layout = _layout("reward of preferred − reward of other", "comparisons", height=_HEIGHT)
    layout["barmode"] = "overlay"
    return {"data": data, "layout": layout}


def rewards(result: Row) -> Figure | None:
    """Histograms of the rewards of preferred and other answers, overlaid."""
    histogram = result["histogram"]
    edges = histogram["edges"]
    if not edges:
        return None
    everything = [True] * (len(edges) - 1)
    data = [
        _bars(edges, histogram["rejected"], everything, "other answer", "--rejected") | {"opacity": 0.6},
        _bars(edges, histogram["chosen"], everything, "preferred answer", "--chosen") | {"opacity": 0.6},
    ]
    layout = _layout("reward", "answers", height=_HEIGHT)
    layout["barmode"] = "overlay"
    return {"data": data, "layout": layout}


def reliability(result: Row) -> Figure | None:
    """How often the favoured answer was the preferred one, against how sure the model was."""
    table = result["reliability"]
    if not table:
        return None
    sure = [row["confidence"] for row in table]
    right = [row["accuracy"] for row in table]
    points = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "measured",
        "x": [_short(x) for x in sure],
        "y": [_short(y) for y in right],
        "customdata": [row["count"] for row in table],
        "error_y": _errors(right, [row["interval"] for row in table]),
        "marker": {"color": "--chosen", "size": 7},
        "line": {"color": "--chosen", "width": 1},
        "hovertemplate": "sure %{x:.1%}, right %{y:.1%}<br>%{customdata} comparisons<extra></extra>",
    }
    top = max(0.6, *sure) + 0.02
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "name": "perfectly calibrated",
        "x": [0.5, _short(top)],
        "y": [0.5, _short(top)],
        "line": {"color": "--grey", "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    layout = _layout("how sure: σ(|gap|)", "how often right", height=_HEIGHT)
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0.49, _short(top)]}
    layout["yaxis"] |= {"tickformat": ".0%"}
    return {"data": [ideal, points], "layout": layout}


def forest(result: Row) -> Figure | None:
    """Accuracy by slice with intervals, one row per value, the first 60 of slices and length gaps."""
    rows = [("everything", "", _whole(result))] if result["accuracy"] is not None else []
    for column, table in result["slices"].items():
        rows += [(column, str(row["value"]), row) for row in table]
    rows += [("length", length_words(row), row) for row in result["length_gap"]]
    rows = rows[:MOST_SLICES]
    if len(rows) < 2:
        return None
    names = [f"<b>{_label(column)}</b> {_label(value)}" for column, value, _ in rows]
    right = [row["accuracy"] for _, _, row in rows]
    place = list(range(len(rows)))
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [_short(x) for x in right],
        "y": place,
        "text": names,
        "customdata": [_hover(row) for _, _, row in rows],
        "error_x": _errors(right, [row["interval"] for _, _, row in rows]),
        "marker": {"color": "--chosen", "size": 8},
        "hovertemplate": "%{text}<br>%{customdata}<extra></extra>",
    }
    layout = _layout("accuracy", "", height=90 + 26 * len(rows))
    layout["xaxis"] |= {"tickformat": ".0%"}
    layout["yaxis"] |= {"tickvals": place, "ticktext": names, "range": [len(rows) - 0.4, -0.6]}
    layout["yaxis"] |= {"showgrid": False, "zeroline": False}
    layout["shapes"] = [_line("v", 0.5)]
    layout["showlegend"] = False
    return {"data": [points], "layout": layout}


def length(result: Row) -> Figure | None:
    """Reward of each answer against its length."""
    if not result["points"]:
        return None
    data = []
    for name, colour, symbol, wanted in (
        ("other answer", "--rejected", "diamond", False),
        ("preferred answer", "--chosen", "circle", True),
    ):
        points = [(x, y) for x, y, preferred in result["points"] if preferred is wanted]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                **_xy(points),
                "marker": {"color": colour, "size": 5, "opacity": 0.55, "symbol": symbol},
                "hovertemplate": "%{x} characters, reward %{y:.3g}",
            }
        )
    return {"data": data, "layout": _layout("length of the answer (characters)", "reward", height=_HEIGHT)}


def best_of_n(result: Row) -> Figure | None:
    """Mean rating of the answer picked among n, against how far that moves the policy at most."""
    best = result["best_of_n"]
    if best is None:
        return None
    points = best["curve"]
    data = []
    for key, name, colour, dash in (
        ("oracle", "best rated", "--grey", "dash"),
        ("rating", "highest reward", "--chosen", "solid"),
        ("longest", "longest", "--rejected", "solid"),
        ("random", "random", "--grey", "dot"),
    ):
        trace = {
            "type": "scatter",
            "mode": "lines+markers" if key == "rating" else "lines",
            "name": name,
            **_xy([(point["kl"], point[key]) for point in points]),
            "customdata": [point["n"] for point in points],
            "line": {"color": colour, "width": 2 if key == "rating" else 1.5, "dash": dash},
            "hovertemplate": "of %{customdata}: %{y:.3g}",
        }
        if key == "rating":
            trace["marker"] = {"color": colour, "size": 6}
            if points[0]["interval"] is not None:
                trace["error_y"] = _errors([p[key] for p in points], [p["interval"] for p in points])
        data.append(trace)
    layout = _layout("KL from the policy, at most: log n − (n−1)/n (nats)", "mean rating", height=_HEIGHT)
    return {"data": data, "layout": layout}


OF_A_RESULT = (margins, rewards, reliability, forest, length, best_of_n)
"""The charts of one evaluation; a place in the page has the function's name."""


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
        {"type": "scatter", **steps, **_xy(list(zip(numbers, best.accumulate(values), strict=True)))},
        _trials(numbers, finished, result),
    ]
    layout = _layout("trial", METRICS[metric], height=_HEIGHT)
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
    x = [_label(json.dumps(row["values"][key])) if choices else row["values"][key] for row in finished]
    layout = _layout(_label(key), METRICS[metric], height=_HEIGHT)
    if choices:
        layout["xaxis"] |= {"type": "category", "categoryarray": [_label(json.dumps(v)) for v in where]}
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
                **_xy(row["validations"]),
                "line": {"color": colour, "width": 1, "dash": dash},
                "marker": {"color": colour, "size": 4},
                "opacity": 0.7,
                "hovertemplate": f"trial {row['number']}, validation %{{x}}: %{{y:.4g}}<extra></extra>",
            }
        )
    layout = _layout("validation", result["validation"], height=_HEIGHT)
    layout["xaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout} if data else None


def effects(variants: Sequence[Row], metric: str) -> Figure | None:
    """Differences of an ablation's variants from the full recipe with intervals, and each seed's own."""
    rows = [(_label(row["name"]), row[metric]) for row in variants if row[metric]]
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
            **_xy(seeds),
            "marker": {"color": "--grey", "size": 6, "symbol": "line-ns-open"},
            "hovertemplate": f"one seed: %{{x:{unit}}}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "mean and interval",
            "x": [_short(x) for x in middle],
            "y": place,
            "error_x": _errors(middle, [list(bounds) for bounds in spans]),
            "marker": {"color": "--chosen", "size": 8},
            "hovertemplate": f"%{{x:{unit}}}<extra></extra>",
        },
    ]
    layout = _layout(f"{METRICS[metric]}: without − with", "", height=110 + 30 * len(rows))
    layout["yaxis"] |= {"tickvals": place, "ticktext": names, "range": [len(rows) - 0.4, -0.6]}
    layout["yaxis"] |= {"showgrid": False, "zeroline": False}
    layout["shapes"] = [_line("v", 0) | {"layer": "above"}]
    return {"data": data, "layout": _percent(layout, metric, axis="xaxis")}


def length_words(row: Row) -> str:
    """A length-gap bucket in words, the preferred answer being the subject."""
    low, high = row["low"], row["high"]
    if low == high:
        return "equally long"
    if high is None:
        return f"over {low:.0f} longer" if low else "longer"
    if low is None:
        return f"over {-high:.0f} shorter" if high else "shorter"
    near, far, word = (low, high, "longer") if low >= 0 else (-high, -low, "shorter")
    return f"up to {far:.0f} {word}" if near == 0 else f"{near + 1:.0f}–{far:.0f} {word}"


def _trials(x: Sequence[Any], rows: Sequence[Row], result: Row) -> Row:
    """A point per finished trial, the best in another colour."""
    metric, best = result["metric"], result["best"]["number"]
    unit = ".1%" if metric == "accuracy" else ".4g"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "trial",
        "x": list(x),
        "y": [_short(row[metric]) for row in rows],
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
    axis: Row = {"range": [_short(low - room), _short(high + room)]}
    if where["log"]:
        axis |= {"type": "log", "dtick": 1 if high - low >= 2 else "D2", "exponentformat": "e"}
    return axis


def _percent(layout: Row, metric: str, axis: str = "yaxis") -> Row:
    """The layout with percentages on the axis where the metric is a share."""
    if metric == "accuracy":
        layout[axis]["tickformat"] = ".1%"
    return layout


def _whole(result: Row) -> Row:
    return {key: result[key] for key in ("accuracy", "interval", "count")}


def _hover(row: Row) -> str:
    low, high = row["interval"]
    return f"{row['accuracy']:.1%} ({low:.1%} – {high:.1%}), {row['count']} comparisons"


def _label(text: str) -> str:
    short = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    return escape(" ".join(short.split()))


def _points(metrics: Sequence[Row], event: str, key: str) -> list[tuple[float, float]]:
    rows = (row for row in metrics if row.get("event") == event)
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def _thin(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most ``most`` points, each the mean of as many neighbours."""
    if len(points) <= most:
        return points
    parts = np.array_split(np.array(points), most)
    return [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in parts)]


def _bars(edges: list[float], counts: list[int], shown: list[bool], name: str, colour: str) -> Row:
    bars = [(low, high, n) for (low, high), n, on in zip(pairwise(edges), counts, shown, strict=True) if on]
    return {
        "type": "bar",
        "name": name,
        "x": [_short((low + high) / 2) for low, high, _ in bars],
        "width": [_short(high - low) for low, high, _ in bars],
        "y": [n for _, _, n in bars],
        "customdata": [f"{low:.3g} to {high:.3g}" for low, high, _ in bars],
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertemplate": "%{customdata}: %{y}",
    }


def _errors(middle: list[float], intervals: list[list[float]]) -> Row:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_short(max(0.0, high - x)) for x, (_, high) in zip(middle, intervals, strict=True)],
        "arrayminus": [_short(max(0.0, x - low)) for x, (low, _) in zip(middle, intervals, strict=True)],
        "color": "--chosen",
        "thickness": 1.5,
        "width": 0,
    }


def _xy(points: Sequence[tuple[float, float]]) -> Row:
    return {"x": [_short(x) for x, _ in points], "y": [_short(y) for _, y in points]}


def _line(direction: str, at: float) -> Row:
    across, along = ("y", "x") if direction == "h" else ("x", "y")
    ends = {f"{across}0": at, f"{across}1": at, f"{along}0": 0, f"{along}1": 1, f"{along}ref": "paper"}
    line = {"color": "--grey", "width": 1, "dash": "dot"}
    return {"type": "line", "layer": "below", "line": line, **ends}


def _layout(x: str, y: str, height: int) -> Row:
    axis = {"gridcolor": "--grid", "zerolinecolor": "--grid", "linecolor": "--grid", "automargin": True}
    return {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "paper_bgcolor": "--clear",
        "plot_bgcolor": "--clear",
        "font": {"color": "--muted", "size": 12},
        "hoverlabel": {"bgcolor": "--card", "bordercolor": "--grid", "font": {"color": "--ink"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": {"title": {"text": x}, **axis, "fixedrange": True},
        "yaxis": {"title": {"text": y, "standoff": 12}, **axis, "fixedrange": True},
    }


def _short(number: float) -> float:
    return float(f"{number:.6g}")
