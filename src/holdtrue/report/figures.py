"""Charts of a run: its training, and what an evaluation of it found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from holdtrue.report import plot
from holdtrue.report.plot import Figure, Row

_MOST_POINTS = 600
MOST_SLICES = 60


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
        thin = plot.thin(train, _MOST_POINTS)
        faint = {"name": "training, each step", "line": {"color": "--faint", "width": 1}}
        smooth = plot.thin(train, 40) if len(train) > 80 else []
        if smooth:
            traces.append(plot.xy(thin) | style | faint | {"hoverinfo": "skip", "hovertemplate": None})
        line = {"color": "--grey", "width": 2}
        traces.append(plot.xy(smooth or thin) | style | {"name": "training", "line": line})
    if validation:
        line = {"color": "--chosen", "width": 2}
        marks = {"mode": "lines+markers", "marker": {"color": "--chosen", "size": 6}}
        traces.append(plot.xy(validation) | style | marks | {"name": "validation", "line": line})
    layout = plot.layout("optimiser step", title)
    layout["xaxis"]["rangemode"] = "tozero"
    if percent:
        layout["yaxis"]["tickformat"] = ".0%"
        layout["shapes"] = [plot.line("h", 0.5)]
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
    layout = plot.layout("reward of preferred − reward of other", "comparisons")
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
    layout = plot.layout("reward", "answers")
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
        "x": [plot.short(x) for x in sure],
        "y": [plot.short(y) for y in right],
        "customdata": [row["count"] for row in table],
        "error_y": plot.errors(right, [row["interval"] for row in table]),
        "marker": {"color": "--chosen", "size": 7},
        "line": {"color": "--chosen", "width": 1},
        "hovertemplate": "sure %{x:.1%}, right %{y:.1%}<br>%{customdata} comparisons<extra></extra>",
    }
    top = max(0.6, *sure) + 0.02
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "name": "perfectly calibrated",
        "x": [0.5, plot.short(top)],
        "y": [0.5, plot.short(top)],
        "line": {"color": "--grey", "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    layout = plot.layout("how sure: σ(|gap|)", "how often right")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0.49, plot.short(top)]}
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
    names = [f"<b>{plot.label(column)}</b> {plot.label(value)}" for column, value, _ in rows]
    right = [row["accuracy"] for _, _, row in rows]
    place = list(range(len(rows)))
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [plot.short(x) for x in right],
        "y": place,
        "text": names,
        "customdata": [_hover(row) for _, _, row in rows],
        "error_x": plot.errors(right, [row["interval"] for _, _, row in rows]),
        "marker": {"color": "--chosen", "size": 8},
        "hovertemplate": "%{text}<br>%{customdata}<extra></extra>",
    }
    layout = plot.layout("accuracy", "", height=90 + 26 * len(rows))
    layout["xaxis"] |= {"tickformat": ".0%"}
    layout["yaxis"] |= {"tickvals": place, "ticktext": names, "range": [len(rows) - 0.4, -0.6]}
    layout["yaxis"] |= {"showgrid": False, "zeroline": False}
    layout["shapes"] = [plot.line("v", 0.5)]
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
                **plot.xy(points),
                "marker": {"color": colour, "size": 5, "opacity": 0.55, "symbol": symbol},
                "hovertemplate": "%{x} characters, reward %{y:.3g}",
            }
        )
    return {
        "data": data,
        "layout": plot.layout("length of the answer (characters)", "reward"),
    }


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
            **plot.xy([(point["kl"], point[key]) for point in points]),
            "customdata": [point["n"] for point in points],
            "line": {"color": colour, "width": 2 if key == "rating" else 1.5, "dash": dash},
            "hovertemplate": "of %{customdata}: %{y:.3g}",
        }
        if key == "rating":
            trace["marker"] = {"color": colour, "size": 6}
            if points[0]["interval"] is not None:
                trace["error_y"] = plot.errors([p[key] for p in points], [p["interval"] for p in points])
        data.append(trace)
    layout = plot.layout("KL from the policy, at most: log n − (n−1)/n (nats)", "mean rating")
    return {"data": data, "layout": layout}


OF_A_RESULT = (margins, rewards, reliability, forest, length, best_of_n)
"""The charts of one evaluation; a place in the page has the function's name."""


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


def _whole(result: Row) -> Row:
    return {key: result[key] for key in ("accuracy", "interval", "count")}


def _hover(row: Row) -> str:
    low, high = row["interval"]
    return f"{row['accuracy']:.1%} ({low:.1%} – {high:.1%}), {row['count']} comparisons"


def _points(metrics: Sequence[Row], event: str, key: str) -> list[tuple[float, float]]:
    rows = (row for row in metrics if row.get("event") == event)
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def _bars(edges: list[float], counts: list[int], shown: list[bool], name: str, colour: str) -> Row:
    bars = [(low, high, n) for (low, high), n, on in zip(pairwise(edges), counts, shown, strict=True) if on]
    return {
        "type": "bar",
        "name": name,
        "x": [plot.short((low + high) / 2) for low, high, _ in bars],
        "width": [plot.short(high - low) for low, high, _ in bars],
        "y": [n for _, _, n in bars],
        "customdata": [f"{low:.3g} to {high:.3g}" for low, high, _ in bars],
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertemplate": "%{customdata}: %{y}",
    }
