"""What the doctor says of a model, of data or of a reward: findings, their severity, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["ok", "warn", "fail"]
SEVERITIES: tuple[Severity, ...] = ("fail", "warn", "ok")
"""The worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what was seen.

    Attributes:
        id: of the check, such as ``T01``.
        severity: ``ok`` when nothing is wrong.
        evidence: what was seen, for people: ids, ranges, counts, up to three examples.
        why: what it leads to; empty when nothing is wrong.
        fix: what to do about it, then commands and settings that do it, one a line; empty when nothing is
            wrong.
        source: a reported case of the fault (``owner/name#1``), or where the rule comes from.
        values: the evidence as plain values, for programs.
    """

    id: str
    severity: Severity
    evidence: str
    why: str = ""
    fix: str = ""
    source: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


class Missing(Exception):
    """The subject lacks what a check needs, which skips it; the message says what, in a few words."""


@dataclass(frozen=True)
class Skipped:
    """A check that could not be made, and what it lacks."""

    id: str
    why: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the worst first, and the checks that could not be made."""

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def of(cls, results: Iterable[Finding | Skipped]) -> Diagnosis:
        """Sort what checks gave."""
        results = list(results)
        findings = [one for one in results if isinstance(one, Finding)]
        findings.sort(key=lambda one: (SEVERITIES.index(one.severity), one.id))
        return cls(tuple(findings), tuple(one for one in results if isinstance(one, Skipped)))

    @property
    def verdict(self) -> Severity:
        """The worst severity; ``ok`` when nothing was found."""
        return self.findings[0].severity if self.findings else "ok"

    def as_json(self) -> dict[str, Any]:
        """``{"verdict", "findings": [...], "skipped": [...]}``, plain values."""
        return {
            "verdict": self.verdict,
            "findings": [asdict(one) for one in self.findings],
            "skipped": [asdict(one) for one in self.skipped],
        }
