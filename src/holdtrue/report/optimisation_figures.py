"""Charts of a policy optimisation, step by step, with what happened marked in each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Any

from holdtrue.intervals import pooled
from holdtrue.report import plot
from holdtrue.report.plot import Figure, Row

Points = list[tuple[float, float]]
_EACH, _SMOOTH, _POOLED = 600, 60, 8
"""Points of a line of single steps, of one of means of neighbouring steps, and of one of shares of few."""
_ENDS = {
    "end token": "finish_stop",
    "cut at the longest": "finish_length",
    "loop": "finish_loop",
    "control token": "finish_control",
}
_SIMPLE: dict[str, tuple[str, dict[str, str]]] = {
    "kl": ("nats per answer", {"KL": "kl"}),
    "ends": ("share of answers", _ENDS),
    "length": ("tokens", {"length": "length"}),
    "entropy": ("nats per token", {"entropy": "entropy"}),
    "spread": ("standard deviation", {"reward": "reward_std"}),
    "flat": ("share of groups", {"flat groups": "flat_groups"}),
    "left_out": ("answers per step", {"left out": "excluded", "no reward": "nan_rewards"}),
    "clipped": ("share of tokens", {"policy": "clip_fraction", "values": "value_clip_fraction"}),
    "gradient": ("norm", {"before clipping": "grad_norm"}),
    "explained": ("share of variance", {"explained": "explained_variance"}),
    "value_loss": ("value loss", {"value loss": "value_loss"}),
    "kl_coef": ("coefficient", {"KL coefficient": "kl_coef"}),
    "learning_rate": ("learning rate", {"learning rate": "learning_rate"}),
}
"""Chart -> its axis, and the metric of each line."""
_SHARES = {"ends", "flat", "clipped"}
_WHEN_VARIED = {"clipped", "kl_coef", "learning_rate", "left_out"}
"""A flat line would say what the settings or a count say."""


def draw(
    rows: Sequence[Row], events: Sequence[Row], kept: int | None, rates: Mapping[str, Any]
) -> dict[str, Figure]:
    """Every chart there are numbers for.

    Args:
        rows: of ``metrics.jsonl``.
        events: of :func:`holdtrue.report.optimisation.timeline`, marked in all charts.
        kept: the step whose policy the run left, marked too.
        rates: the doctor's, by step, of degenerate answers.
    """
    steps = [row for row in rows if row["event"] == "train"]
    drawn = {
        "reward": _with_held_out(rows, "reward", "reward", "reward"),
        "learnt": _with_held_out(rows, "reward_whitened", "score", "standard deviations"),
        "parts": _parts(steps),
        "degenerate": _rates(rates),
        "seconds": _seconds(steps),
        "events": _strip(events),
    }
    for name, (title, columns) in _SIMPLE.items():
        lines = {label: points(steps, lambda row: row.get(key)) for label, key in columns.items()}  # noqa: B023
        if name == "ends":  # a way of ending that never was has no line
            lines = {label: line for label, line in lines.items() if any(y for _, y in line)}
        lines = {label: line for label, line in lines.items() if line}
        if name in _WHEN_VARIED and len({y for line in lines.values() for _, y in line}) < 2:
            continue
        drawn[name] = _figure(lines, title, share=name in _SHARES)
    marks = _marks(events, kept)
    last = max((row["step"] for row in steps), default=0)
    for name, figure in drawn.items():
        if figure is not None:
            figure["layout"]["xaxis"]["range"] = [0, plot.short(1.03 * last)]
            figure["layout"]["shapes"] = marks if name != "events" else []
    return {name: figure for name, figure in drawn.items() if figure is not None}


def points(rows: Iterable[Row], value: Callable[[Row], Any]) -> Points:
    """(step, value) where the value is a finite number."""
    found = ((row["step"], value(row)) for row in rows)
    return [(x, y) for x, y in found if isinstance(y, int | float) and isfinite(y)]


def _figure(lines: Mapping[str, Points], title: str, *, share: bool = False) -> Figure | None:
    """Lines over steps; of many steps means of neighbours, behind one line alone each step."""
    if not any(lines.values()):
        return None
    data = []
    for (name, line), colour in zip(lines.items(), _colours(len(lines)), strict=True):
        smooth = plot.thin(line, _SMOOTH)
        if len(lines) == 1 and len(line) > len(smooth):
            faint = {"mode": "lines", "line": {"color": "--faint", "width": 1}, "hoverinfo": "skip"}
            data.append(
                plot.trace("each step", plot.thin(line, _EACH), colour) | faint | {"hovertemplate": None}
            )
        trace = plot.trace(name, smooth, colour)
        data.append(trace | ({"mode": "lines"} if len(smooth) > 20 else {}))
    layout = plot.layout("step", title)
    layout["showlegend"] = len(data) > 1 or share  # which of the shares a single line is
    if share:
        layout["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    return {"data": data, "layout": layout}


def _colours(count: int) -> list[str]:
    return [plot.COLOURS[place % len(plot.COLOURS)] for place in range(count)]


def _with_held_out(rows: Sequence[Row], key: str, held_out: str, title: str) -> Figure | None:
    """A metric of the steps and, with intervals of the mean where these are known, on held-out prompts."""
    trained = points((row for row in rows if row["event"] == "train"), lambda row: row.get(key))
    figure = _figure({"training": trained}, title)
    held = [row for row in rows if row["event"] == "eval" and points([row], lambda r: r.get(held_out))]
    if figure is None or not held:
        return figure
    trace = plot.trace("held out", [(row["step"], row[held_out]) for row in held], "--rejected")
    if held_out == "reward":
        trace["error_y"] = plot.errors([row["reward"] for row in held], [interval(row) for row in held]) | {
            "color": "--rejected"
        }
    figure["data"].append(trace)
    figure["layout"]["showlegend"] = True
    return figure


def interval(row: Row) -> list[float]:
    """The 95 % interval of an evaluation's mean reward."""
    half = 1.96 * (row.get("reward_se") or 0.0)
    return [row["reward"] - half, row["reward"] + half]


def _parts(steps: Sequence[Row]) -> Figure | None:
    names = list(dict.fromkeys(name for row in steps for name in row.get("reward_parts") or {}))
    if len(names) < 2:
        return None
    lines = {name: points(steps, lambda row: row["reward_parts"].get(name)) for name in names}  # noqa: B023
    return _figure({name: line for name, line in lines.items() if line}, "standard deviations")


def _seconds(steps: Sequence[Row]) -> Figure | None:
    """What a step takes: each part that is measured, and what is left of the whole."""
    keys = [
        key for key in (steps[-1] if steps else ()) if key.startswith("seconds_") and key != "seconds_step"
    ]
    lines = {
        key.removeprefix("seconds_"): points(steps, lambda row: row.get(key))  # noqa: B023
        for key in keys
    }
    lines["the rest"] = points(
        steps, lambda row: row["seconds_step"] - sum(row.get(key) or 0.0 for key in keys)
    )
    return _figure(lines, "seconds")


def _rates(rates: Mapping[str, Any]) -> Figure | None:
    """The share of degenerate answers among those examined, with Wilson's intervals.

    A step has a few of them, so neighbours are taken together: of ten answers without a fault the interval
    reaches to 28 %. Answers of before the first step stand alone. The axis reaches to a fifth at least, so
    that what is left open by few answers does not look like many faults.
    """
    if not rates:
        return None
    before = {step: one for step, one in rates.items() if step == "0"}
    after = {step: one for step, one in rates.items() if step != "0"}
    parts = before | pooled(after, _POOLED)
    values = [one["rate"] for one in parts.values()]
    places = [fmean(map(int, name.split("–"))) for name in parts]
    trace = plot.trace("degenerate", list(zip(places, values, strict=True)), "--rejected")
    trace |= {"customdata": list(parts), "hovertemplate": "steps %{customdata}: %{y:.1%}<extra></extra>"}
    spans = [one["interval"] for one in parts.values()]
    layout = plot.layout("step", "share of answers")
    highest = max(0.2, 1.05 * max(high for _, high in spans))
    layout["yaxis"] |= {"tickformat": ".0%", "range": [-0.02 * highest, highest]}
    return {
        "data": [trace | {"error_y": plot.errors(values, spans) | {"color": "--rejected"}}],
        "layout": layout,
    }


def _strip(events: Sequence[Row]) -> Figure | None:
    """What happened when: a row for each kind, a mark for each event, a bar from its onset."""
    if not events:
        return None
    kinds = list(dict.fromkeys(one["what"] for one in events))
    data = []
    for what in kinds:
        own = [one for one in events if one["what"] == what]
        steps = [one["step"] for one in own]
        colour = "--rejected" if any(one["grave"] for one in own) else "--chosen"
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": steps,
                "y": [kinds.index(what)] * len(own),
                "error_x": plot.errors(steps, [[one["since"], one["step"]] for one in own])
                | {"color": colour},
                "marker": {"color": colour, "size": 9},
                "hovertemplate": f"{plot.label(what)} at step %{{x}}<extra></extra>",
            }
        )
    layout = plot.layout("step", "", height=100 + 28 * len(kinds))
    names = [f"<b>{plot.label(what)}</b>" for what in kinds]
    layout["yaxis"] |= {"tickvals": list(range(len(kinds))), "ticktext": names}
    layout["yaxis"] |= {"range": [len(kinds) - 0.4, -0.6], "showgrid": False, "zeroline": False}
    layout["showlegend"] = False
    return {"data": data, "layout": layout}


def _marks(events: Sequence[Row], kept: int | None) -> list[Row]:
    """Bands over steps that were taken back, lines at the first grave alarm of each cause and at the policy
    that was kept."""
    back = [
        {
            "type": "rect",
            "layer": "below",
            "xref": "x",
            "x0": one["to"] + 0.5,
            "x1": one["step"] + 0.5,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "fillcolor": "--faint",
            "opacity": 0.5,
            "line": {"width": 0},
        }
        for one in events
        if one["to"] is not None
    ]
    first = {one["what"]: one["step"] for one in reversed(events) if one["grave"]}
    grave = [plot.line("v", step) for step in first.values()]
    for line in grave:
        line["line"] = line["line"] | {"color": "--rejected"}
    own = [] if kept is None else [plot.line("v", kept)]
    for line in own:
        line["line"] = line["line"] | {"color": "--chosen", "dash": "dash"}
    return [*back, *grave, *own]
