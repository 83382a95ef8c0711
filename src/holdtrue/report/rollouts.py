"""The page of examined rollouts: causes, rates, and transcripts with what was found in colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdtrue.records import Rollout, flatten
from holdtrue.report import wording
from holdtrue.report.heat import Piece
from holdtrue.report.page import render
from holdtrue.rundir import disk_errors, write_text

MOST = 300
"""Transcripts on the page; more make it slow to open."""
_LONGEST_PROMPT, _AROUND = 600, 500


def write_rollouts_report(path: Path, result: Mapping[str, Any], rollouts: Sequence[Rollout]) -> None:
    """Write the page of what ``doctor rollouts`` found, its JSON with the rollouts of its rows in order.

    Raises:
        ResourceError: the disk is full.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, render(_contents(path, result, rollouts), {}, "rollouts.jinja", "rollouts.js"))


def _contents(path: Path, result: Mapping[str, Any], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    whole = result["rates"]["degenerate"]
    pairs = list(zip(result["rows"], rollouts, strict=True))
    order = {"fail": 0, "warn": 1, "ok": 2}
    ranked = sorted(pairs, key=lambda pair: order[pair[0]["verdict"]])[:MOST]
    rows = [_row(row, rollout) for row, rollout in ranked]
    return {
        "name": path.stem,
        "headline": f"{_named(result)}{whole['count']:,} of {wording.many(whole['rows'], 'answer')} "
        f"{'is' if whole['count'] == 1 else 'are'} degenerate: {wording.percent(whole['rate'])} "
        f"({wording.span(whole['interval'])}).",
        "notes": [*result["notes"], *_unread(result["unreadable"])],
        "causes": result["causes"],
        "remedies": result["remedies"],
        "tables": [table for table in _tables(result) if table["rows"]],
        "signals": result["signals"],
        "rows": rows,
        "shown_note": f"{len(rows):,} of {len(pairs):,}, the worst first." if len(pairs) > len(rows) else "",
        "verdicts": sorted({row["verdict"] for row in rows}, key=lambda one: order[one]),
        "detectors": sorted({name for row in rows for name in row["detectors"].split()}),
        "policies": sorted({row["policy"] for row in rows}),
        "steps": sorted({row["step"] for row in rows}, key=lambda one: (len(one), one)),
    }


def _named(result: Mapping[str, Any]) -> str:
    names = ", ".join(result["decided_by"])
    return f"{names}: {result['verdict']}. " if names else ""


def _unread(unreadable: Mapping[str, Any]) -> Iterator[str]:
    for reason, one in unreadable.items():
        yield f"{wording.many(one['rows'], 'row')} could not be read: {reason}, as {one['examples'][0]}."


def _tables(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    rates = result["rates"]
    yield {
        "heads": ["found", "fail", "warn", "rate", "95 % interval"],
        "rows": [(name, one["count"], one["warned"], *_rate(one)) for name, one in rates.items()],
    }
    for by, head in (("by_policy", "policy"), ("by_step", "step")):
        yield {
            "heads": [head, "answers", "degenerate", "rate", "95 % interval"],
            "rows": [
                (name, one["rows"], one["count"], *_rate(one))
                for name, one in _worst_first(rates["degenerate"][by], by == "by_policy")
            ],
        }
    yield {
        "heads": ["chain", "prompts", "before", "after", "difference (points)", "reading"],
        "rows": [
            (
                f"{one['from']} → {one['to']}",
                one["prompts"],
                wording.percent(one["rate_from"]),
                wording.percent(one["rate_to"]),
                "–" if one["difference"] is None else wording.points(one["difference"]),
                one["reading"],
            )
            for one in result["chains"]
        ],
    }
    yield {
        "heads": ["signature", "rows", "begins at", "from step"],
        "rows": [
            (
                one["signature"],
                one["rows"],
                "–" if one["begins_at"] is None else f"{one['begins_at']:.0%} of the answer",
                "–" if one["first_step"] is None else one["first_step"],
            )
            for one in result["clusters"]
        ],
    }


def _worst_first(parts: Mapping[str, Any], ranked: bool) -> list[tuple[str, Any]]:
    rows = list(parts.items())
    return sorted(rows, key=lambda row: -row[1]["rate"]) if ranked else rows


def _rate(one: Mapping[str, Any]) -> tuple[str, str]:
    return wording.percent(one["rate"]), wording.span(one["interval"])


def _row(row: Mapping[str, Any], rollout: Rollout) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "reward": rollout.reward,
        "advantage": rollout.advantage,
        "finish": rollout.finish,
    }
    facts |= {"finish": rollout.finish, "policy": rollout.policy, "step": rollout.step, "at": rollout.source}
    prompt = flatten(rollout.prompt, roles=True)
    return {
        "at": rollout.source.short if rollout.source else f"row {row['index']}",
        "verdict": row["verdict"],
        "detectors": " ".join(sorted({flag["detector"] for flag in row["findings"]})),
        "policy": rollout.policy or "",
        "step": "" if rollout.step is None else str(rollout.step),
        "facts": " · ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in facts.items()
            if isinstance(value, (str, int, float)) or name == "at"
        ),
        "prompt": prompt if len(prompt) <= _LONGEST_PROMPT else f"{prompt[:_LONGEST_PROMPT]} […]",
        "pieces": list(pieces(rollout.text, row["findings"])),
        "found": [f"{flag['severity']} {flag['detector']}: {flag['evidence']}" for flag in row["findings"]],
    }


def pieces(text: str, findings: Sequence[Mapping[str, Any]]) -> Iterator[Piece]:
    """The text with its flagged spans; long stretches are cut in the middle, and say so."""
    at = 0
    for start, end, flag in sorted(
        ((f["start"], f["end"], f) for f in findings if f["start"] is not None), key=lambda one: one[:2]
    ):
        start = max(start, at)
        if end <= start:
            continue
        yield Piece(_shorten(text[at:start]))
        side, strength = ("down", 45) if flag["severity"] == "fail" else ("up", 30)
        yield Piece(_shorten(text[start:end]), f"{flag['detector']}: {flag['evidence']}", side, strength)
        at = end
    yield Piece(_shorten(text[at:]))


def _shorten(text: str) -> str:
    if len(text) <= 2 * _AROUND:
        return text
    return f"{text[:_AROUND]} [… {len(text) - 2 * _AROUND:,} more characters] {text[-_AROUND:]}"
