"""Answers with control tokens in their text: one at the end is taken off, rows with one inside go.

A template writes the end of a turn itself, so an end in an answer's own text is there twice; without it no
word is lost. One inside the text is what a policy with the habit writes, and what follows it mostly junk too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from holdtrue.data.checks import CONTROL_TOKEN
from holdtrue.doctor.census import FOREIGN
from holdtrue.doctor.remedies import Changes, DataRemedy, Row
from holdtrue.doctor.remedies._rows import LEARNED, beside_answers, rewrite, shown, target
from holdtrue.errors import DataError


class DropControl(DataRemedy):
    """No answer holds a control token any more: of all turns, and of the chosen side of preferences.

    Rejected answers lose only their ends: the policy learns to avoid the rest. Words of users and tools are
    for ``neutralise``. Where the prompt is one string with the template applied, an answer keeps the one end
    it is written with; a raw ``text`` is left alone, as its control tokens are turns.
    """

    grade = "A"
    evidence = "certain for the rows: check X01 finds no answer with one afterwards, in rows of every layout"
    source = "the counterpart of check X01; Visual-Agent/DeepEyes#131"
    mends = frozenset({"data_teach_it", "control_tokens_can_be_sampled"})
    harms = "rows are prompts alone"

    by: Literal["drop", "cut"] = "drop"
    """``drop`` leaves out rows with one inside an answer; ``cut`` ends the answer before it, and teaches to
    end there; a row of which nothing would be left goes anyway, and so does one with it in thoughts or
    calls."""
    tokens: tuple[str, ...] = ()
    """Control tokens of the model, as ``doctor fix`` gives them; empty: those of all families. Traces of
    other chat formats are always looked for."""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        known = [re.escape(token) for token in sorted(self.tokens, key=len, reverse=True) if token]
        return re.compile("|".join([*known, FOREIGN.pattern])) if known else CONTROL_TOKEN

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """The rows whose answers hold none.

        Raises:
            DataError: no row would be left.
        """
        changes, kept = Changes(), []
        for at, row in enumerate(rows):
            cleaned = self._row(row, f"row {at}", changes)
            if cleaned is not None:
                kept.append(cleaned)
        if rows and not kept:
            raise DataError(f"all {len(rows)} rows hold control tokens inside an answer; none would be left")
        return kept, changes

    def _row(self, row: Row, place: str, changes: Changes) -> Row | None:
        """The row with clean answers; None where it goes."""
        if all(row.get(name) is None for name in LEARNED):
            if self._pattern.search(str(row.get("text", ""))):
                changes.note("raw texts left as they are", place)
            return row
        rendered = isinstance(row.get("prompt"), str) and bool(self._pattern.search(row["prompt"]))
        inside: list[str] = []
        emptied: list[str] = []

        def said(role: str, text: str) -> str:
            if role != "assistant":
                return text
            clean, found = self._parted(text, rendered)
            if found is not None:
                inside.append(shown(text[max(found.start() - 30, 0) : found.end() + 30]))
                clean = text[: found.start()].rstrip()
            if text.strip() and not clean.strip():
                emptied.append(shown(text))
            return clean

        result = rewrite({name: value for name, value in row.items() if name != "rejected"}, said)
        beside = [shown(text) for text in beside_answers(row) if self._pattern.search(text)]
        if emptied or beside or (inside and self.by == "drop"):
            changes.note("rows dropped", f"{place}: {(inside or emptied or beside)[0]}")
            return None
        if "rejected" in row:
            ended = rewrite({"rejected": row["rejected"]}, lambda _, text: self._parted(text, rendered)[0])
            result = {**row, **result, **ended}
        if result != row:
            what = inside[0] if inside else shown((target(row) or "")[-60:])
            changes.note("rows cut" if inside else "rows with ends taken off", f"{place}: {what}")
        return result

    def _parted(self, text: str, rendered: bool) -> tuple[str, re.Match[str] | None]:
        """A text without the control tokens that end it (but for the last, where it is rendered), and the
        first that is left inside."""
        found, body = list(self._pattern.finditer(text)), len(text.rstrip())
        ends = []
        while found and found[-1].end() == body:
            ends.append(found.pop())
            body = len(text[: ends[-1].start()].rstrip())
        inside = found[0] if found else None
        if len(ends) <= rendered:
            return text, inside
        return text[:body] + (ends[0][0] if rendered else ""), inside
