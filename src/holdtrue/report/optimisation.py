"""The page of a policy optimisation: did it work, may it be trusted, and what became of the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdtrue.errors import DataError
from holdtrue.records import Rollout, flatten
from holdtrue.report import answers, wording
from holdtrue.report import optimisation_figures as figures
from holdtrue.report import optimisation_wording as said
from holdtrue.report.answers import Place
from holdtrue.report.optimisation_course import Course
from holdtrue.report.page import render
from holdtrue.report.rollouts import pieces
from holdtrue.report.sources import flatten as by_key
from holdtrue.rundir import RunDir, disk_errors, write_text

Examine = Callable[[Sequence[Rollout]], Mapping[str, Any]]
"""What :meth:`holdtrue.doctor.rollouts.Examination.as_json` gives for some answers."""
_log = logging.getLogger(__name__)
_SHOWN = 4
"""Prompts whose answers are shown from step to step, and answers with the highest rewards."""


def write_optimisation_report(run: RunDir, examine: Examine) -> Path:
    """Write ``report.html`` of an optimisation, as far as it got; returns its path.

    Args:
        examine: the doctor, which looks at a sample of the answers and at those that are shown.

    Raises:
        DataError: a file of the run is broken. ResourceError: the disk is full.
    """
    file = run.path / "rollouts.jsonl"
    try:
        course = Course(run)
        for text in said.broken(course):
            _log.warning(text)
        chosen = {"by_step": answers.sample(course.places), "last": answers.sample(course.last_places)}
        by_step, last = (examine(answers.read(file, places)) if places else {} for places in chosen.values())
        examined = said.Examined(by_step, last)
        page = render(
            _contents(course, examined, len(chosen["by_step"])) | _transcripts(file, course, examine),
            figures.draw(course.rows, course.events, course.kept, examined.rates),
            "optimisation.jinja",
        )
    except KeyError as error:
        raise DataError(
            f"{run.path} was written by another version of holdtrue, or by hand: a row does not say {error}"
        ) from error
    with disk_errors(run.report_file):
        write_text(run.report_file, page)
    return run.report_file


def _contents(course: Course, examined: said.Examined, sampled: int) -> dict[str, Any]:
    info = {key: value for key, value in course.info.items() if key not in ("ended", "launch")}
    return {
        "name": course.path.resolve().name,
        "headline": said.headline(course),
        "reading": [line for line in (said.trust(course, examined), said.held_out(course)) if line],
        "notes": list(said.notes(course)),
        "advice": list(said.advice(course, examined)),
        "tiles": list(said.tiles(course, examined)),
        "counts": list(said.counts(course)),
        "left_out": (course.info.get("data") or {}).get("left_out") or {},
        "left_out_files": RunDir(course.path).left_out_files,
        "events": course.events,
        "sampled": sampled,
        "facts": list(by_key({key: value for key, value in info.items() if value is not None})),
        "settings": list(by_key(course.settings)),
    }


def _transcripts(file: Path, course: Course, examine: Examine) -> dict[str, Any]:
    """Answers to the same prompts from step to step, and those with the highest rewards at the end."""
    if not course.steps:
        return {"transcripts": [], "highest": []}
    last = course.steps[-1]["step"]
    wanted = {"start": 0, "middle": course.steps[len(course.steps) // 2]["step"]}
    best = course.ended.get("best_step")
    wanted |= ({} if best is None else {"best held-out score": best}) | {"end": last}
    along = answers.along(course.standing_places, wanted, _SHOWN)
    highest = answers.highest(course.last_places, _SHOWN)
    chosen = [place for shown in along for _, place in shown] + highest
    rollouts = answers.read(file, chosen)
    found = examine(rollouts)["rows"] if rollouts else []
    sides = {
        place: _side(place, rollout, row["findings"])
        for place, rollout, row in zip(chosen, rollouts, found, strict=True)
    }
    return {
        "transcripts": [
            [
                sides[place]
                | {
                    "when": ", ".join(
                        one if wanted[one] == place.step else f"near the {one}" for one in names
                    )
                }
                for names, place in shown
            ]
            for shown in along
        ],
        "highest": [sides[place] for place in highest],
    }


def _side(place: Place, rollout: Rollout, findings: Sequence[Any]) -> dict[str, Any]:
    reward = "no reward" if place.reward is None else f"reward {wording.number(place.reward)}"
    count = wording.many(len(rollout.completion_ids or ()), "token")
    ending = wording.ENDS.get(rollout.finish or "", rollout.finish or "")
    return {
        "prompt": flatten(rollout.prompt, roles=True),
        "step": place.step,
        "line": place.line,
        "facts": " · ".join(part for part in (reward, count, ending) if part),
        "pieces": list(pieces(rollout.text, findings)),
        "found": [f"{flag['severity']} {flag['detector']}: {flag['evidence']}" for flag in findings],
    }
