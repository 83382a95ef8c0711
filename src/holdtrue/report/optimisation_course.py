"""The course of a policy optimisation, as its files tell it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from holdtrue.report import answers
from holdtrue.report.answers import Place
from holdtrue.report.optimisation_figures import points
from holdtrue.rundir import RunDir, standing

Row = dict[str, Any]


class Course:
    """What the files of a run say, and what follows from it for every part of the page.

    Steps that a rollback took back are in :attr:`rows`, :attr:`findings` and :attr:`events` alone.

    Attributes:
        rows, findings: of ``metrics.jsonl`` and ``findings.jsonl``.
        places: of all answers.
        broken: files with lines that are left out, as they hold no row or answer, and the lines' numbers.
        ended: how the run ended, empty before it has.
        total: steps that were carried out.
        steps, evaluations: rows that stand, in order.
        kept: the step whose policy the run left, or the newest; None before the first.
        window: the last tenth of the steps up to that.
        alarms: those that began before that.
        events: what happened, see :func:`timeline`.
    """

    def __init__(self, run: RunDir) -> None:
        rollouts, findings = run.path / "rollouts.jsonl", run.path / "findings.jsonl"
        self.path, self.info, self.settings = run.path, run.info(), run.settings()
        broken: dict[Path, list[int]] = {}
        self.places, broken[rollouts] = answers.find(rollouts)
        self.rows, broken[run.metrics_file] = _rows(run.metrics_file)
        self.findings, broken[findings] = _rows(findings)
        self.broken = {file: lines for file, lines in broken.items() if lines}
        self.ended: Row = self.info.get("ended") or {}
        stand = standing([*self.rows, *self.findings])
        self.steps = [row for row in stand if row["event"] == "train"]
        self.evaluations = [row for row in stand if row["event"] == "eval" and row["reward"] is not None]
        self.total: int = max((row["step"] for row in self.rows if row["event"] == "train"), default=0)
        newest = self.steps[-1]["step"] if self.steps else None
        self.kept: int | None = self.ended["kept"]["step"] if self.ended else newest
        until = [row for row in self.steps if row["step"] <= (self.kept or 0)]
        self.window = until[-max(1, len(until) // 10) :]
        alarms = (row for row in stand if row["event"] == "alarm")
        self.alarms = [row for row in alarms if row["onset_step"] <= (self.kept or 0)]
        self.events = list(timeline(self.rows, self.findings, self.ended))

    def mean(self, name: str) -> float | None:
        """Of a metric over the window."""
        values = [y for _, y in points(self.window, lambda row: row.get(name))]
        return fmean(values) if values else None

    @property
    def held_out(self) -> Row | None:
        """The evaluation of the policy that was kept, or the last one before it."""
        return next((row for row in reversed(self.evaluations) if row["step"] <= (self.kept or 0)), None)

    @property
    def rewards(self) -> tuple[list[float], list[float]]:
        """The mean reward of the answers to each prompt: of the reference before the first step, and over the
        window."""
        reference = [place for place in self.places if place.step == 0]
        return answers.mean_rewards(reference), answers.mean_rewards(self.last_places)

    @property
    def standing_places(self) -> list[Place]:
        """Of the answers of steps that stand, and of the reference's before them."""
        steps = {0, *(row["step"] for row in self.steps)}
        return [place for place in self.places if place.step in steps]

    @property
    def last_places(self) -> list[Place]:
        """Of the answers of the window."""
        steps = {row["step"] for row in self.window}
        return [place for place in self.places if place.step in steps]


def _rows(file: Path) -> tuple[list[Row], list[int]]:
    """The rows that say which ``event`` of which ``step`` they are, and the lines that hold none."""
    rows, broken = list[Row](), list[int]()
    for number, _, row in answers.objects(file):
        if row is None or not {"event", "step"} <= row.keys():
            broken.append(number)
        else:
            rows.append(row)
    return rows, broken


def timeline(rows: Sequence[Row], alarms: Sequence[Row], ended: Row) -> Iterator[Row]:
    """What happened, in order: ``step``, ``since``, ``to`` of a rollback, ``what``, ``grave``, ``text``."""
    happened = [
        {"step": row["step"], "since": row["onset_step"], "what": row["cause"], "text": row["text"]}
        | {"grave": row["severity"] == "fail", "to": None}
        for row in alarms
    ]
    happened += [
        {"step": row["step"], "since": row["to"], "what": "went back", "text": row["text"]}
        | {"grave": False, "to": row["to"]}
        for row in rows
        if row["event"] == "rollback"
    ]
    if ended:
        last, best = ended["steps"], ended.get("best_step")
        said = []
        if best is not None:
            said.append((best, "best held-out score", "The evaluation with the highest held-out score."))
        if ended["stopped_early"]:
            said.append((last, "stopped early", "The held-out score no longer rose."))
        if ended["stopped"]:
            said.append((last, "stopped at an alarm", ended["stopped"]))
        happened += [
            {"step": step, "since": step, "what": what, "text": text, "grave": False, "to": None}
            for step, what, text in said
        ]
    yield from sorted(happened, key=lambda one: one["step"])
