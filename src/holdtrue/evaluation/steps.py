"""How well the values of steps follow what was said of them.

AUC = P(value of a right step > value of a wrong one), ties count 0.5
right at 0 = share of steps whose value has the sign of their judgement
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue import steps
from holdtrue.evaluation.pointwise import auc
from holdtrue.intervals import wilson
from holdtrue.records import Group


def agreement(
    groups: Sequence[Group],
    values: Sequence[Sequence[NDArray[np.floating]] | None],
    separator: str,
    confidence: float,
) -> dict[str, Any]:
    """``steps``: values of steps, for each answer of each group, against judgements; nothing without either.

    A step is wrong when its judgement is below ``threshold``: 0 where any judgement is negative (PRM800K,
    where neutral steps then count as right, arXiv 2305.20050, section 2.5), else 0.5. ``misplaced``
    judgements stand where no step ends, ``cut`` ones beyond what the model read.
    """
    found: list[tuple[float, float]] = []
    misplaced = cut = 0
    for group, rows in zip(groups, values, strict=True):
        for answer, row in zip(group.answers, rows or [], strict=rows is not None):
            if not answer.steps or not len(row):
                continue
            misplaced += steps.misplaced(answer, separator)
            said = steps.of(answer, separator)[1]
            judged = [(value, z) for value, z in zip(said, row, strict=False) if value == value]
            cut += sum(value == value for value in said[len(row) :])
            found += [(value, float(z)) for value, z in judged if np.isfinite(z)]
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
        "misplaced": misplaced,
        "cut": cut,
        "right_at_zero": right / len(found),
        "right_at_zero_interval": list(wilson(right, len(found), confidence)),
        **auc(good, z, confidence),
    }
    return {"steps": numbers}
