"""The page of the demo: the two failures of optimising against a reward model, seen as they happen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdtrue.report import plot, wording
from holdtrue.report.page import render
from holdtrue.report.plot import Figure
from holdtrue.rundir import RunDir, read_json, read_jsonl, write_text

Row = dict[str, Any]
PUBLISHED: dict[str, tuple[float, float, float]] = {
    "frozen": (-0.02, -0.16, 0.11),
    "metarm": (-0.04, -0.1, 0.03),
    "ensemble-min": (0.02, -0.09, 0.12),
    "fresh_labels": (0.15, 0.04, 0.26),
}
"""Arm -> gold at a KL of 6 nats less that of retrain, and its 95 % interval: 16 seeds, docs/results.md."""
_COLOURS = ("--rejected", "--chosen")


def write_story(folder: Path) -> Path:
    """Write ``story.html`` of a demo's folder; returns its path."""
    gold = {
        arm: read_json(folder / "gold" / "seed-00" / arm / "result.json")
        for arm in ("frozen", "fresh_labels")
    }
    habit = {arm: read_json(folder / "habit" / "seed-00" / arm / "result.json") for arm in ("blind", "veto")}
    frozen, fresh = gold["frozen"], gold["fresh_labels"]
    peak = max(range(len(frozen["curve"])), key=lambda i: _smooth(frozen["curve"], "gold")[i])
    rates = {
        "healthy": habit["blind"]["numbers"]["healthy_control_rate"],
        "after fine-tuning": habit["blind"]["numbers"]["before_control_rate"],
        "optimised, blind reward": habit["blind"]["numbers"]["control_rate"],
        "optimised, reward with a veto": habit["veto"]["numbers"]["control_rate"],
    }
    contents = {
        "accuracy": read_json(folder / "evaluation.json")["results"][0]["accuracy"],
        "peak": {"step": peak + 1, "kl": frozen["curve"][peak]["kl"]},
        "ends": {
            name: {"proxy": one["curve"][-1]["proxy"], "gold": one["rounds"][-1]["gold"]}
            for name, one in gold.items()
        },
        "spread": [row["before"]["relative_spread"] for row in frozen["rounds"]],
        "right": [row["before"]["accuracy"] for row in frozen["rounds"]],
        "labels": sum(row["refresh"]["labels"] for row in fresh["rounds"][:-1]),
        "rates": rates,
        "alarms": _alarms(folder / "habit" / "seed-00" / "blind" / "rl"),
        "transcripts": _transcripts(habit),
        "published": [
            (arm, wording.measured({"mean": mean, "interval": [low, high]}, sign=True))
            for arm, (mean, low, high) in PUBLISHED.items()
        ],
    }
    drawn = {
        "goodhart": _steps(
            {
                "proxy reward": _smooth(frozen["curve"], "proxy"),
                "true reward": _smooth(frozen["curve"], "gold"),
            },
            "sd of the first policy",
        ),
        "telemetry": _rounds({"spread": contents["spread"], "accuracy": contents["right"]}),
        "repair": _steps(
            {"frozen": _smooth(frozen["curve"], "gold"), "fresh labels": _smooth(fresh["curve"], "gold")},
            "true reward (sd)",
        ),
        "habit": _bars(rates),
    }
    path = folder / "story.html"
    write_text(path, render(contents, drawn, "story.jinja"))
    return path


def _smooth(curve: Sequence[Row], name: str) -> list[float]:
    """Means over each step and its neighbours."""
    values = [row[name] for row in curve]
    windows = (values[max(0, i - 1) : i + 2] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _alarms(place: Path) -> list[str]:
    file = RunDir(place).path / "findings.jsonl"
    return [row["text"] for row in read_jsonl(file)][:4] if file.is_file() else []


def _transcripts(habit: Row) -> list[Row]:
    """Prompts at whose answers the habit shows, before and after both optimisations."""
    pairs = zip(habit["blind"]["transcripts"], habit["veto"]["transcripts"], strict=True)
    rows = [
        {"prompt": b["prompt"], "before": b["before"], "blind": b["after"], "veto": v["after"]}
        for b, v in pairs
    ]
    return sorted(rows, key=lambda row: "<|" not in row["before"])[:3]


def _steps(lines: dict[str, list[float]], title: str) -> Figure:
    layout = plot.layout("step of optimisation", title)
    layout["shapes"] = [plot.line("h", 0)]
    data = [
        plot.trace(name, [(step + 1, value) for step, value in enumerate(values)], colour)
        for (name, values), colour in zip(lines.items(), _COLOURS, strict=True)
    ]
    return {"data": data, "layout": layout}


def _rounds(lines: dict[str, list[float]]) -> Figure:
    layout = plot.layout("round", "")
    layout["xaxis"]["dtick"] = 1
    layout["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    layout["shapes"] = [plot.line("h", 0.5)]
    data = [
        plot.trace(name, [(number + 1, value) for number, value in enumerate(values)], colour)
        for (name, values), colour in zip(lines.items(), _COLOURS, strict=True)
    ]
    return {"data": data, "layout": layout}


def _bars(rates: dict[str, float]) -> Figure:
    layout = plot.layout("", "answers with control tokens")
    layout["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    trace = {
        "type": "bar",
        "x": list(rates),
        "y": [plot.short(rate) for rate in rates.values()],
        "marker": {"color": "--chosen"},
        "hovertemplate": "%{x}: %{y:.1%}<extra></extra>",
    }
    return {"data": [trace], "layout": layout}
