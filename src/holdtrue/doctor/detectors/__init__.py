"""Detectors: what is wrong with one rollout, and where in it.

A detector is a :class:`Detector` in a file of its own. It is skipped, and that counted, where a rollout lacks
what it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from holdtrue.doctor.findings import Severity
from holdtrue.doctor.reading import Reading
from holdtrue.kinds import Kind

FAMILY = __name__


@dataclass(frozen=True)
class Flag:
    """Something wrong in a rollout.

    Attributes:
        detector: which found it.
        severity: ``fail`` for what must not be trained on, ``warn`` for what deserves a look.
        start, end: characters of the answer (end exclusive); None where only token ids are known.
        evidence: what was seen, for people.
        tokens: the same place in token ids, where these are given.
        signature: rollouts with the same are of one cluster.
        values: the evidence as plain values.
    """

    detector: str
    severity: Severity
    start: int | None
    end: int | None
    evidence: str
    tokens: tuple[int, int] | None = None
    signature: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


class Detector(Kind):
    """What finds one fault in one rollout."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Of ``completion_ids``, ``vocabulary``, ``logprobs``; text is always there."""
    why: ClassVar[str]
    """What the fault leads to."""
    fix: ClassVar[str]
    """What to do about it."""
    source: ClassVar[str] = ""
    """A reported case."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """What is wrong with the rollout."""
        raise NotImplementedError

    def flag(
        self,
        severity: Severity,
        evidence: str,
        *,
        span: tuple[int | None, int | None] = (None, None),
        tokens: tuple[int, int] | None = None,
        signature: str = "",
        **values: Any,
    ) -> Flag:
        """A flag of this detector."""
        return Flag(self.name(), severity, *span, evidence, tokens, signature or self.name(), values)
