"""Rows that hold a pattern, brought to a share of all rows.

With n rows of which h hold the pattern, and a wanted share s:

    weight   w = s·n/h for those with it, (1 - s)·n/(n - h) for the others, so that the weights sum to n
    drop     k = max(⌊s/(1 - s)·(n - h)⌋, ⌈keep·h⌉) of the h stay, drawn at random

A model fitted to the rows by maximum likelihood begins the pattern as often as they hold it, so this lowers
how often a habit begins. How long it goes on once it has begun is another thing: see
:mod:`~holdtrue.doctor.remedies.recovery`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from holdtrue.data.checks import CONTROL_TOKEN
from holdtrue.doctor.remedies import Changes, DataRemedy, Row, percent
from holdtrue.doctor.remedies._rows import shown, target
from holdtrue.errors import DataError


class Rebalance(DataRemedy):
    """Rows whose target holds a pattern that the data over-represent are weighted down, or dropped.

    ``weight`` needs a trainer that reads the column ``weight``; those of TRL do not.
    """

    grade = "B"
    evidence = (
        "a bigram model counted from rows with a habit in 10 %: it begins in 10.2 % of answers before and "
        "0.5 % after; once begun it goes on as before (0.72 a step). GRPO on a table from such starts: "
        "loops 0.011 and 0.007 after 120 steps, against 0.107 and 0.109"
    )
    source = "benchmarks/remedies.py; the advice most often given"
    mends = frozenset({"data_teach_it", "control_tokens_can_be_sampled", "loops_taught_or_unpunished"})
    harms = "rows are prompts alone"

    pattern: str = CONTROL_TOKEN.pattern
    """Regular expression; by default control tokens of all families."""
    share: float = Field(0.005, gt=0, lt=1)
    """Share that rows with the pattern have afterwards."""
    by: Literal["drop", "weight"] = "drop"
    """``drop`` leaves rows out; ``weight`` multiplies the column ``weight`` and can also raise a share."""
    keep: float = Field(0.02, ge=0, le=1)
    """Least part of the rows with the pattern that ``drop`` keeps: they also teach what stands beside it."""
    seed: int = Field(0, ge=0)
    """Seed of the draw of ``drop``."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """Rows without those dropped, or with other weights.

        Raises:
            DataError: every row holds the pattern, so nothing balances them.
        """
        pattern = re.compile(self.pattern)
        holds = [bool(pattern.search(target(row) or "")) for row in rows]
        count, changes = sum(holds), Changes()
        changes.counts["rows with the pattern"] = count
        if not count:
            return list(rows), changes
        if count == len(rows):
            raise DataError(f"all {count} rows hold {self.pattern!r}: there are no others to balance them")
        if self.by == "weight":
            factor = {
                True: self.share * len(rows) / count,
                False: (1 - self.share) * len(rows) / (len(rows) - count),
            }
            weighted = [
                {**row, "weight": row.get("weight", 1.0) * factor[held]}
                for row, held in zip(rows, holds, strict=True)
            ]
            changes.note(
                "rows weighted",
                f"with the pattern {factor[True]:.3f}, others {factor[False]:.3f}: "
                f"{percent(count / len(rows))} become {percent(self.share)}",
            )
            changes.counts["rows weighted"] = len(rows)
            return weighted, changes
        room = math.floor(self.share / (1 - self.share) * (len(rows) - count) + 1e-9)
        kept = min(count, max(room, math.ceil(self.keep * count)))
        places = [at for at, held in enumerate(holds) if held]
        drawn = np.random.default_rng(self.seed).permutation(len(places))[kept:]
        dropped = {places[at] for at in drawn.tolist()}
        for at in sorted(dropped):
            changes.note("rows dropped", f"row {at}: {shown(target(rows[at]) or '')}")
        return [row for at, row in enumerate(rows) if at not in dropped], changes
