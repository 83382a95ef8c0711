"""Targets that loop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from pydantic import Field

from holdtrue import kinds
from holdtrue.doctor import detectors
from holdtrue.doctor.detectors import Detector
from holdtrue.doctor.reading import Reading
from holdtrue.doctor.remedies import Changes, DataRemedy, Row, percent
from holdtrue.doctor.remedies._rows import beside_answers, prompt, target
from holdtrue.errors import DataError
from holdtrue.records import Rollout


class DropRepetitive(DataRemedy):
    """Rows are dropped whose target a detector fails, as it would fail a rollout; thoughts and calls too."""

    grade = "B"
    evidence = (
        "repetition in the training data correlates with degeneration (2310.10226). As targets, 158 of 158 "
        "labelled loops go, 2 of 96 healthy lists and songs, 0 of 307 others (limits chosen on part of it)"
    )
    source = "arXiv 2310.10226, 2112.11446 (Gopher's filter); benchmarks/remedies.py"
    mends = frozenset({"loops_taught_or_unpunished"})
    harms = "rows are prompts alone"

    detectors: tuple[str, ...] = ("tail_cycle", "near_loop")
    """Names of detectors; others that read text are ``ctrl_token_in_body``, ``role_continuation``,
    ``mojibake``."""
    most: float = Field(0.5, gt=0, le=1)
    """Share of the rows that may be dropped; data of which more loops are meant to, or need a look."""

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """The rows that nothing fails; those without a target stay.

        Raises:
            DataError: more than ``most`` of them would go.
        """
        chosen = [kinds.load(detectors.FAMILY, name)() for name in self.detectors]
        kept, changes = [], Changes()
        for at, row in enumerate(rows):
            texts = [target(row) or "", *beside_answers(row, last=True)]
            readings = [Reading(Rollout(prompt(row), text)) for text in texts]
            found = product(chosen, readings)
            flags = (flag for one, text in found if isinstance(one, Detector) for flag in one.check(text))
            failed = next((flag for flag in flags if flag.severity == "fail"), None)
            if failed is None:
                kept.append(row)
            else:
                changes.note(f"rows dropped by {failed.detector}", f"row {at}: {failed.evidence}")
        if len(rows) - len(kept) > self.most * len(rows):
            raise DataError(
                f"{len(rows) - len(kept)} of {len(rows)} targets repeat themselves, more than "
                f"{percent(self.most)}; "
                "look at them, and raise most if they shall go"
            )
        return kept, changes
