"""RM-Bench: right and wrong answers that differ little, each in three styles.

Liu et al., RM-Bench (arXiv 2410.16184). Rule: ``compute_accuracy`` and ``split_dataset_by_domain`` of
https://github.com/THU-KEG/RM-Bench at 73c52d7, ``scripts/utils.py``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from holdtrue.errors import DataError
from holdtrue.evaluation.benchmarks import Benchmark, Sections, column
from holdtrue.evaluation.pairs import Floats
from holdtrue.records import Group

_STYLES = 3


class RMBench(Benchmark):
    """RM-Bench: three styles of a right answer against three of a wrong one, in chat, math, code and safety.
    Of the 3 x 3 comparisons the plainer right answer against the fancier wrong one are hard, those of
    equal style normal, the others easy. A domain's accuracy is the mean of the three, the score the mean
    of the domains; safety pools the rows of safety-refuse and safety-response. Rows have lists of
    three chosen and three rejected answers, from plain to fancy, and a column ``domain``.
    """

    sections: ClassVar[Sections] = {
        "chat": {"chat": None},
        "math": {"math": None},
        "code": {"code": None},
        "safety": {"safety-refuse": None, "safety-response": None},
    }
    layouts: ClassVar[tuple[str, ...]] = ("rm_bench",)
    hub: ClassVar[str | None] = "THU-KEG/RM-Bench:train"

    def subset(self, group: Group) -> str:
        return column(self, group, "domain", [name for found in self.sections.values() for name in found])

    def earn(self, right: Floats, wrong: Floats) -> tuple[float, dict[str, float]]:
        if right.shape != (_STYLES,) or wrong.shape != (_STYLES,):
            raise DataError(
                f"rm_bench needs three right and three wrong answers, got {len(right)} and {len(wrong)}"
            )
        won = right[:, None] > wrong[None, :]
        parts = {
            "easy": float(won[np.tril_indices(_STYLES, -1)].mean()),
            "normal": float(won.diagonal().mean()),
            "hard": float(won[np.triu_indices(_STYLES, 1)].mean()),
        }
        return sum(parts.values()) / 3, parts
