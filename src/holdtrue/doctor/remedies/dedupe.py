"""Rows whose target an earlier row has already taught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from holdtrue.data.near import RUN, near_classes
from holdtrue.doctor.remedies import Changes, DataRemedy, Row
from holdtrue.doctor.remedies._rows import prompt, shown, target


class Dedupe(DataRemedy):
    """Rows whose target equals, or nearly equals, that of earlier rows are dropped.

    Targets of fewer than five words (labels, numbers, yes and no) repeat for good reason: of them only rows
    with the same prompt are dropped. Near is what :mod:`holdtrue.data.near` calls near.
    """

    grade = "B"
    evidence = (
        "models trained on deduplicated data write memorised text ten times less often (2107.06499); "
        "repetition in the data goes with repetition in what is written (2310.10226)"
    )
    source = "arXiv 2107.06499, 2310.10226"
    mends = frozenset({"loops_taught_or_unpunished"})
    harms = "rows are prompts alone"

    keep: int = Field(1, ge=1)
    """Copies of one target that stay, the first."""

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """The rows without further copies of a target; rows without a target stay."""
        texts = [target(row) for row in rows]
        classes = near_classes([text or "" for text in texts])
        seen: Counter[object] = Counter()
        changes, kept = Changes(), []
        for at, (row, text) in enumerate(zip(rows, texts, strict=True)):
            short = len((text or "").split()) < RUN
            key = (prompt(row), text) if short else classes[at]
            seen[key] += 1
            if text is None or seen[key] <= self.keep:
                kept.append(row)
                continue
            exact = short or text == texts[classes[at]]
            of = "" if short else f" (as row {classes[at]})"
            changes.note(f"{'exact' if exact else 'near'} duplicates dropped", f"row {at}{of}: {shown(text)}")
        return kept, changes
