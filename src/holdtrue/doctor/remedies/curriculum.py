"""Rows in the order of what they ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from holdtrue.doctor.remedies import Changes, Context, DataRemedy, Row
from holdtrue.doctor.remedies._rows import needed, target
from holdtrue.errors import DataError


class Curriculum(DataRemedy):
    """Easy rows first: short ones, ones with a low difficulty, or prompts whose group of answers tells most.

    Rows are sorted into bands and shuffled within each, so that batches stay mixed. The trainer must not
    shuffle again.
    """

    grade = "C"
    evidence = (
        "indirect: prompts whose answers all earn the same teach nothing (frac_reward_zero_std); no "
        "measurement on loops is known"
    )
    source = "TRL's frac_reward_zero_std; DAPO's dynamic sampling (arXiv 2503.14476, section 3.2)"
    mends = frozenset({"exploration_ended"})
    harms = "ordered by length, and the longest targets are cut (X04): they would be learned last, and stick"
    reads_targets = False

    by: Literal["length", "difficulty", "spread"] = "spread"
    """``length`` of the target in characters, the column ``difficulty``, or the standard deviation of the
    column ``rewards``, a list (largest first)."""
    bands: int = Field(4, ge=1)
    """Steps of the order."""
    seed: int = Field(0, ge=0)
    """Seed of the shuffle within a band."""

    def refuses(self, context: Context) -> str | None:
        """As :class:`DataRemedy`; and where length would order and the longest targets are cut."""
        if self.by == "length" and context.targets is False:
            return "the rows are prompts alone: there are no targets whose length could order them"
        if self.by == "length" and "X04" in context.findings:
            return "the longest targets are cut (X04): they would come last, and stick"
        return super().refuses(context)

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """All rows, in another order.

        Raises:
            DataError: a row lacks the column.
        """
        keys = np.array([self._key(at, row) for at, row in enumerate(rows)], dtype=float)
        ranked = np.argsort(keys, kind="stable")
        draw = np.random.default_rng(self.seed)
        order = [at for band in np.array_split(ranked, self.bands) for at in draw.permutation(band).tolist()]
        changes = Changes()
        changes.counts["rows moved"] = sum(at != place for place, at in enumerate(order))
        return [rows[at] for at in order], changes

    def _key(self, at: int, row: Row) -> float:
        if self.by == "length":
            return len(needed(target(row), at, "target"))
        column = "difficulty" if self.by == "difficulty" else "rewards"
        value = needed(row.get(column), at, f"column {column}")
        try:
            return -float(np.std(value)) if self.by == "spread" else float(value)
        except (TypeError, ValueError):
            wanted = "a list of numbers" if self.by == "spread" else "a number"
            raise DataError(f"{column} of row {at} is {value!r}, expected {wanted}") from None
