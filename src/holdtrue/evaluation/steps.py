"""How well the values of steps follow what was said of them.

AUC = P(value of a right step > value of a wrong one), ties count 0.5
right at 0 = share of steps whose value has the sign of their judgement
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from holdtrue import steps
from holdtrue.evaluation.pointwise import auc
from holdtrue.intervals import wilson
from holdtrue.records import Group

Steps = Sequence[tuple[int, float]]
"""Where in an answer's text each step ends, and its value."""


def agreement(
    groups: Sequence[Group], values: Sequence[Sequence[Steps] | None], confidence: float
) -> dict[str, Any]:
    """``steps``: values of steps, for each answer of each group, against judgements; nothing without either.

    A step is wrong when its judgement is below ``threshold``: 0 where any judgement is negative (PRM800K,
    where neutral steps then count as right, arXiv 2305.20050, section 2.5), else 0.5. ``unmatched``
    judgements stand where the model read no end of a step.
    """
    found: list[tuple[float, float]] = []
    unmatched = 0
    for group, rows in zip(groups, values, strict=True):
        for answer, row in zip(group.answers, rows or [], strict=rows is not None):
            read = dict(row)
            for end, value in steps.judgements(answer).items():
                if end in read and np.isfinite(read[end]):
                    found.append((value, read[end]))
                else:
                    unmatched += 1
    if not found:
        return {}
    said_of, z = (np.array(column) for column in zip(*found, strict=True))
    threshold = 0.0 if (said_of < 0).any() else 0.5
    good = said_of >= threshold
    right = float(((1 + np.sign(z) * np.where(good, 1, -1)) / 2).sum())
    numbers = {
        "count": len(found),
        "right_steps": int(good.sum()),
        "threshold": threshold,
        "unmatched": unmatched,
        "right_at_zero": right / len(found),
        "right_at_zero_interval": list(wilson(right, len(found), confidence)),
        **auc(good, z, confidence),
    }
    return {"steps": numbers}
