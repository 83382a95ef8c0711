"""The page of rounds: how far the policy went, whether the reward model kept up, what the answers became."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from holdtrue.report import plot, wording
from holdtrue.report.page import render
from holdtrue.report.plot import Figure
from holdtrue.rundir import RunDir, read_jsonl, write_text

Row = dict[str, Any]
_SHOWN = 6
"""Prompts whose answers are shown side by side."""


def write_rounds_report(run: RunDir) -> Path:
    """Write ``report.html`` of the rounds that are finished; returns its path."""
    rows = run.metrics()
    settings = run.settings()
    drawn = {
        "drift": _lines(rows, {"KL": lambda r: r["before"]["kl"]}, "KL to the first policy (nats)"),
        "reward": _reward(rows),
        "accuracy": _accuracy(rows),
        "spread": _lines(
            rows, {"spread": lambda r: r["before"]["relative_spread"]}, "spread / first policy's"
        ),
        "held_out": _lines(
            rows, {"gap": lambda r: r["before"]["proxy_gap"]}, "lead over the held-out model (sd)"
        ),
        "health": _health(rows),
    }
    contents = {
        "name": run.path.resolve().name,
        "headline": headline(rows),
        "advice": list(advice(rows)),
        "rows": rows,
        "refresh": settings["refresh"]["kind"],
        "transcripts": transcripts(run, rows[-1]["round"]) if rows else [],
        "last": rows[-1]["round"] if rows else 0,
    }
    path = run.path / "report.html"
    write_text(path, render(contents, {k: v for k, v in drawn.items() if v is not None}, "rounds.jinja"))
    return path


def headline(rows: Sequence[Row]) -> str:
    """How far the policy went, and what is known of the reward model there."""
    if not rows:
        return "No round is finished."
    last = rows[-1]
    count, kl = wording.many(len(rows), "round"), last["before"]["kl"]
    said = f"After {count} the policy is {kl:.1f} nats from the first one"
    after = last["after"]
    if after["accuracy"] is None:
        return f"{said}; no label says how right the reward model is there."
    return (
        f"{said}; the refreshed reward model orders {after['accuracy']:.0%} of its answers rightly "
        f"(95% interval {after['low']:.0%} to {after['high']:.0%}, {after['labels']} labels)."
    )


def advice(rows: Sequence[Row]) -> Iterator[str]:
    """What to do next, from what the last rounds showed."""
    if not rows:
        return
    last = rows[-1]
    for row in rows:
        if row["alarm"]:
            todo = "Take the policy of the round before, and label more answers."
            yield f"Round {row['round']}: {row['alarm']}. {todo}"
        for warning in row["refresh"]["warnings"]:
            yield f"Round {row['round']}: {warning}."
    if last["after"]["accuracy"] is None:
        yield (
            "Have some pairs of the policy's answers labelled (labels.function, labels.accuracy): spread and "
            "reward cannot tell a model that is right from one that is sure."
        )
    spread = last["before"]["relative_spread"]
    if spread is not None and spread < 0.5:
        yield (
            f"Differences between the policy's answers are {1 / max(spread, 1e-9):.1f} times smaller than "
            "between the first policy's, and more of them is noise. Stop earlier or raise the KL coefficient."
        )
    if last["health"]["low"] > 0.01:
        yield "Answers degenerate: run holdtrue doctor rollouts on the last round's answers.jsonl."


def transcripts(run: RunDir, last: int) -> list[Row]:
    """The first answers of the first and the last policy to some prompts."""
    files = {"first": run.path / "reference.jsonl", "last": run.path / f"round-{last}" / "answers.jsonl"}
    found: dict[str, Row] = {}
    for when, file in files.items():
        for row in read_jsonl(file) if file.is_file() else ():
            prompt = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
            answer = row["answer"] if isinstance(row["answer"], str) else row["answer"][-1]["content"]
            if prompt not in found and len(found) == _SHOWN:
                continue
            found.setdefault(prompt, {"prompt": prompt}).setdefault(when, answer)
    return [row for row in found.values() if "first" in row and "last" in row]


def _lines(
    rows: Sequence[Row], columns: dict[str, Callable[[Row], float | None]], title: str
) -> Figure | None:
    colours = ("--chosen", "--rejected")
    data = []
    for (name, value), colour in zip(columns.items(), colours, strict=False):
        points = [(row["round"], x) for row in rows if (x := value(row)) is not None]
        data.append(plot.trace(name, points, colour))
    return _figure(data, title)


def _reward(rows: Sequence[Row]) -> Figure | None:
    """The reward each round's model gives before and after its policy optimisation: one line a round."""
    data = [
        plot.trace(
            f"round {row['round']}",
            [(row["round"] - 1, row["reward"]["from"]), (row["round"], row["reward"]["to"])],
            "--chosen",
        )
        | {"showlegend": False}
        for row in rows
    ]
    return _figure(data, "mean reward")


def _accuracy(rows: Sequence[Row]) -> Figure | None:
    data = []
    for when, name, colour in (("before", "in use", "--rejected"), ("after", "refreshed", "--chosen")):
        known = [row for row in rows if row[when]["accuracy"] is not None]
        values = [row[when]["accuracy"] for row in known]
        spans = [[row[when]["low"], row[when]["high"]] for row in known]
        trace = plot.trace(
            name, [(row["round"], value) for row, value in zip(known, values, strict=True)], colour
        )
        data.append(trace | {"error_y": plot.errors(values, spans) | {"color": colour}})
    figure = _figure(data, "accuracy on the policy's answers")
    if figure:
        figure["layout"]["yaxis"]["tickformat"] = ".0%"
        figure["layout"]["shapes"] = [plot.line("h", 0.5)]
    return figure


def _health(rows: Sequence[Row]) -> Figure | None:
    values = [row["health"]["rate"] for row in rows]
    spans = [[row["health"]["low"], row["health"]["high"]] for row in rows]
    trace = plot.trace(
        "degenerate", [(row["round"], x) for row, x in zip(rows, values, strict=True)], "--rejected"
    )
    figure = _figure(
        [trace | {"error_y": plot.errors(values, spans) | {"color": "--rejected"}}], "degenerate answers"
    )
    if figure:
        figure["layout"]["yaxis"] |= {"tickformat": ".1%", "rangemode": "tozero"}
    return figure


def _figure(data: list[Row], title: str) -> Figure | None:
    if not any(trace["x"] for trace in data):
        return None
    layout = plot.layout("round", title)
    layout["xaxis"]["dtick"] = 1
    layout["showlegend"] = len(data) > 1 and data[0].get("showlegend", True)
    return {"data": data, "layout": layout}
