"""How well a model's aspects follow raters, aspect by aspect.

    accuracy = share of pairs of answers to one prompt, rated differently, that the aspect orders as rated

(ties of the aspect count half), beside error and correlations with the ratings themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdtrue.evaluation import pointwise
from holdtrue.evaluation.accuracy import interval, score
from holdtrue.evaluation.pairs import Floats
from holdtrue.records import Group


def measure(
    groups: Sequence[Group], aspects: Mapping[str, Sequence[Floats]], confidence: float
) -> dict[str, dict[str, Any]]:
    """A row for each aspect that any row is rated in: counts, error, correlations, accuracy and interval.

    ``aspects`` are by name, for each group (N answers,), NaN where there is none.
    """
    table = {}
    for name, columns in aspects.items():
        row = pointwise.ratings(groups, columns, name)
        if row is not None:
            mse = {"count": row["count"], "mse": row["rmse"] ** 2}
            table[name] = mse | row | _accuracy(groups, columns, name, confidence)
    return table


def _accuracy(
    groups: Sequence[Group], columns: Sequence[Floats], name: str, confidence: float
) -> dict[str, Any]:
    of_prompts: dict[str, list[tuple[float, float]]] = {}  # a row may hold one answer of several
    for group, values in zip(groups, columns, strict=True):
        rated = [answer.ratings.get(name, np.nan) for answer in group.answers]
        of_prompts.setdefault(group.prompt_key, []).extend(zip(rated, values.tolist(), strict=True))
    gaps, prompts = [], []
    for number, found in enumerate(of_prompts.values()):
        rating, value = np.array(found, dtype=np.float64).reshape(-1, 2).T
        gap = (value[:, None] - value[None, :])[rating[:, None] > rating[None, :]]  # never true of NaN
        gap = gap[np.isfinite(gap)]
        gaps.append(gap)
        prompts.append(np.full(len(gap), number))
    gap, prompt = np.concatenate(gaps), np.concatenate(prompts)
    if not len(gap):
        return {"pairs": 0, "accuracy": None, "interval": None}
    right = score(gap)
    low, high, _ = interval(right, prompt, confidence)
    return {"pairs": len(gap), "accuracy": float(right.mean()), "interval": [low, high]}
