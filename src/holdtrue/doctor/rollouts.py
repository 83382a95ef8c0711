"""Rollouts examined after the fact: a verdict for each, rates with intervals, clusters and signals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from holdtrue import kinds
from holdtrue.doctor import signals
from holdtrue.doctor.detectors import FAMILY, Detector, Flag
from holdtrue.doctor.findings import SEVERITIES, Finding, Severity
from holdtrue.doctor.reading import Reading
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.intervals import wilson
from holdtrue.records import Rollout

DEGENERATE = "degenerate"
EXAMPLES = 5


@dataclass(frozen=True)
class Row:
    """A rollout and what was found in it; ``index`` counts all answers of the files from 0."""

    index: int
    rollout: Rollout
    flags: tuple[Flag, ...]

    @property
    def at(self) -> str:
        """The file and line it was read from, ``completions_00010.parquet:3``; else ``row 7``."""
        return self.rollout.source.short if self.rollout.source else f"row {self.index}"

    @property
    def verdict(self) -> Severity:
        """The worst severity."""
        return min((flag.severity for flag in self.flags), key=SEVERITIES.index, default="ok")


@dataclass
class Examination:
    """What was found.

    Attributes:
        rows: every rollout.
        skipped: detectors that could not look at all rows: ``{"lacks", "rows"}``.
        rates: by detector (rows it fails) and :data:`DEGENERATE` (rows anything fails), each with
            ``count, rows, rate, interval`` and the same ``by_policy`` and ``by_step`` where these are given.
        clusters: rows with the same signature, the largest first.
        signals: what only many rollouts together show.
    """

    rows: list[Row]
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)
    rates: dict[str, dict[str, Any]] = field(default_factory=dict)
    clusters: list[dict[str, Any]] = field(default_factory=list)
    signals: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Severity:
        """``fail`` when a row or a signal fails."""
        found = [row.verdict for row in self.rows] + [signal.severity for signal in self.signals]
        return min(found, key=SEVERITIES.index, default="ok")

    @property
    def decided_by(self) -> list[str]:
        """The signals, then the detectors, that made the verdict, the most frequent first; of ``ok`` none."""
        verdict = self.verdict
        counts = Counter(
            name
            for row in self.rows
            for name in {flag.detector for flag in row.flags if flag.severity == verdict}
        )
        found = [signal.id for signal in self.signals if signal.severity == verdict != "ok"]
        return [*found, *(name for name, _ in counts.most_common())]

    def as_json(self) -> dict[str, Any]:
        """Plain values: ``rows`` are ``{"index", "verdict", "findings"}``, the rest as above."""
        return {
            "verdict": self.verdict,
            "decided_by": self.decided_by,
            "rows": [
                {"index": row.index, "verdict": row.verdict, "findings": [_plain(flag) for flag in row.flags]}
                for row in self.rows
            ],
            "rates": self.rates,
            "clusters": self.clusters,
            "signals": [asdict(signal) for signal in self.signals],
            "skipped": self.skipped,
        }


def examine(
    rollouts: Sequence[Rollout],
    vocabulary: Vocabulary | None = None,
    *,
    indices: Sequence[int] | None = None,
    detectors: Sequence[Detector] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Examination:
    """Run every detector on every rollout.

    Args:
        rollouts: of one policy or several.
        vocabulary: of the model that sampled them; without it token ids mean little and are left alone.
        indices: of the rollouts among all rows; 0, 1, ... by default.
        detectors: all with their defaults, unless given.
        progress: is told how many rollouts are done.
    """
    chosen = every_detector() if detectors is None else list(detectors)
    lacking: dict[str, Counter[str]] = defaultdict(Counter)
    rows = []
    for at, rollout in enumerate(rollouts):
        reading = Reading(rollout, vocabulary)
        flags: list[Flag] = []
        for detector in chosen:
            lacks = sorted(need for need in detector.needs if not _has(reading, need))
            if lacks:
                lacking[detector.name()][", ".join(lacks)] += 1
            else:
                flags += detector.check(reading)
        flags.sort(key=lambda flag: (SEVERITIES.index(flag.severity), flag.start or 0))
        rows.append(Row(at if indices is None else indices[at], rollout, tuple(flags)))
        progress(at + 1)
    return Examination(
        rows,
        {name: {"lacks": ", ".join(counts), "rows": counts.total()} for name, counts in lacking.items()},
        rates(rows),
        clusters(rows),
        signals.read(rows, vocabulary),
    )


def every_detector() -> list[Detector]:
    """One of each, with its defaults."""
    return kinds.one_of_each(FAMILY)


def _has(reading: Reading, need: str) -> bool:
    if need == "vocabulary":
        return reading.vocabulary is not None
    value = getattr(reading.rollout, need)
    return value is not None and (isinstance(value, int | float) or bool(value))  # a reward of 0 is one


def rates(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """How often each detector fails rows, over all rows, by policy and by step."""
    names = sorted({flag.detector for row in rows for flag in row.flags})
    return {
        name: _rate(rows, name)
        | {
            by: {str(value): _rate(part, name) for value, part in _parts(rows, of)}
            for by, of in (("by_policy", "policy"), ("by_step", "step"))
        }
        for name in [DEGENERATE, *names]
    }


def fails(row: Row, detector: str) -> bool:
    """Whether a detector, or with :data:`DEGENERATE` any, fails the row."""
    if detector == DEGENERATE:
        return row.verdict == "fail"
    return any(flag.severity == "fail" and flag.detector == detector for flag in row.flags)


def _rate(rows: Sequence[Row], name: str) -> dict[str, Any]:
    count = sum(fails(row, name) for row in rows)
    warned = sum(any(flag.detector == name and flag.severity == "warn" for flag in row.flags) for row in rows)
    rate = count / len(rows)
    return {
        "count": count,
        "warned": warned,
        "rows": len(rows),
        "rate": rate,
        "interval": [*wilson(count, len(rows))],
    }


def _parts(rows: Sequence[Row], of: str) -> Iterable[tuple[Any, list[Row]]]:
    """Rows by an attribute of their rollouts, in its order; nothing when it takes one value alone."""
    parts: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        parts[getattr(row.rollout, of)].append(row)
    if len(parts) < 2:
        return []
    return sorted(parts.items(), key=lambda part: (part[0] is None, part[0]))


def clusters(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows that fail in the same way: how many, where it begins, from which step on, examples."""
    found: dict[tuple[str, str], list[tuple[Row, Flag]]] = defaultdict(list)
    for row in rows:
        seen = set()
        for flag in row.flags:
            key = (flag.detector, flag.signature)
            if flag.severity == "fail" and key not in seen:
                found[key].append((row, flag))
                seen.add(key)
    result = []
    for (detector, signature), members in found.items():
        starts = [
            flag.start / len(row.rollout.text)
            for row, flag in members
            if flag.start is not None and row.rollout.text
        ]
        steps = [row.rollout.step for row, _ in members if row.rollout.step is not None]
        result.append(
            {
                "detector": detector,
                "signature": signature,
                "rows": len(members),
                "share": len(members) / len(rows),
                "begins_at": median(starts) if starts else None,
                "first_step": min(steps) if steps else None,
                "examples": [
                    {"index": row.index, "at": str(row.rollout.source or ""), "evidence": flag.evidence}
                    for row, flag in members[:EXAMPLES]
                ],
            }
        )
    return sorted(result, key=lambda one: (-int(str(one["rows"])), str(one["signature"])))


def _plain(flag: Flag) -> Mapping[str, Any]:
    return {**asdict(flag), "tokens": list(flag.tokens) if flag.tokens else None}
