"""What plotly figures are made of: plain dicts of axes, lines and points.

A colour is the name of a CSS variable of the page (``--chosen``), put in by ``charts.js``, so that all
charts share the page's palette in light and dark. Plotly reads strings as a little HTML of its own, so
every text that comes from data is escaped, by :func:`label`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

Figure = dict[str, Any]
Row = dict[str, Any]

COLOURS = ("--chosen", "--rejected", "--teal", "--violet", "--ochre", "--ink")
"""Of lines that stand side by side."""
_HEIGHT = 320
_LONGEST_LABEL = 40


def label(text: str) -> str:
    """A text of the data as plotly shows it: on one line, not too long, its HTML escaped."""
    shown = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    return escape(" ".join(shown.split()))


def errors(middle: list[float], intervals: list[list[float]]) -> Row:
    """Bars from the lower to the upper end of each interval around its point."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [short(max(0.0, high - x)) for x, (_, high) in zip(middle, intervals, strict=True)],
        "arrayminus": [short(max(0.0, x - low)) for x, (low, _) in zip(middle, intervals, strict=True)],
        "color": "--chosen",
        "thickness": 1.5,
        "width": 0,
    }


def xy(points: Sequence[tuple[float, float]]) -> Row:
    """Coordinates of points."""
    return {"x": [short(x) for x, _ in points], "y": [short(y) for _, y in points]}


def trace(name: str, points: Sequence[tuple[float, float]], colour: str) -> Row:
    """A line through points, each of them marked."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(name),
        **xy(points),
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 5},
        "hovertemplate": f"{label(name)}: %{{y:.4g}}<extra></extra>",
    }


def thin(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most ``most`` points, each the mean of as many neighbours."""
    if len(points) <= most:
        return points
    parts = np.array_split(np.array(points), most)
    return [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in parts)]


def line(direction: str, at: float) -> Row:
    """A dotted line across the chart, ``h`` or ``v``, at a value."""
    across, along = ("y", "x") if direction == "h" else ("x", "y")
    ends = {f"{across}0": at, f"{across}1": at, f"{along}0": 0, f"{along}1": 1, f"{along}ref": "paper"}
    look = {"color": "--grey", "width": 1, "dash": "dot"}
    return {"type": "line", "layer": "below", "line": look, **ends}


def layout(x: str, y: str, height: int = _HEIGHT) -> Row:
    """The common look of all charts, with the titles of their axes."""
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


def short(number: float) -> float:
    """The number to 6 digits, so that pages stay small."""
    return float(f"{number:.6g}")
