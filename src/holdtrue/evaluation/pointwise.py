"""Rewards of single answers against what raters said of them: labels (good or bad) and ratings.

    AUC = P(reward of a good answer > reward of a bad one), ties count 0.5
    right at 0 = share of answers whose reward has the sign of their label

The zero of a reward means something only where the loss gave it a meaning (cross-entropy), and the root
mean squared error only where it was trained to be the rating; AUC and correlations hold for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from holdtrue.correlation import pearson, ranks
from holdtrue.evaluation.pairs import Bools, Floats
from holdtrue.intervals import wilson
from holdtrue.records import Group


def labels(groups: Sequence[Group], rewards: Sequence[Floats], confidence: float) -> dict[str, Any] | None:
    """How well rewards (N answers of each group,) tell good answers from bad; None where none is labelled.

    The interval of the AUC is Hanley and McNeil's (1982, Radiology 143:29-36).
    """
    found = [
        (answer.label, float(reward))
        for group, row in zip(groups, rewards, strict=True)
        for answer, reward in zip(group.answers, row, strict=True)
        if answer.label is not None and np.isfinite(reward)
    ]
    if not found:
        return None
    good = np.array([label for label, _ in found], dtype=np.bool_)
    reward = np.array([value for _, value in found])
    right = float(((1 + np.sign(reward) * np.where(good, 1, -1)) / 2).sum())
    return {
        "count": len(found),
        "good": int(good.sum()),
        "right_at_zero": right / len(found),
        "right_at_zero_interval": list(wilson(right, len(found), confidence)),
        **auc(good, reward, confidence),
    }


def auc(good: Bools, reward: Floats, confidence: float) -> dict[str, Any]:
    """P(a good one's number > a bad one's) with Hanley and McNeil's interval; None where one is missing.

    At 0 and 1, where theirs has no width, the interval is Wilson's for as many trials as the rarer class has.
    """
    m, n = int(good.sum()), int((~good).sum())
    if not m or not n:
        return {"auc": None, "auc_interval": None}
    area = float((ranks(reward)[good].sum() - m * (m + 1) / 2) / (m * n))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
    if variance <= 0:  # all in order, or none: the formula knows no doubt there
        return {"auc": area, "auc_interval": list(wilson(area * min(m, n), min(m, n), confidence))}
    room = NormalDist().inv_cdf((1 + confidence) / 2) * max(variance, 0.0) ** 0.5
    return {"auc": area, "auc_interval": [max(area - room, 0.0), min(area + room, 1.0)]}


def ratings(
    groups: Sequence[Group], rewards: Sequence[Floats], name: str = "rating"
) -> dict[str, Any] | None:
    """How well rewards follow a rating: error, and Pearson's and Spearman's correlation; None without any.

    ``within_prompts`` is Pearson's correlation of what is left after each prompt's mean is taken off both:
    whether the better of several answers to one prompt gets the higher reward.
    """
    prompts: dict[str, int] = {}
    rows = [
        (float(answer.ratings[name]), float(reward), prompts.setdefault(group.prompt_key, len(prompts)))
        for group, row in zip(groups, rewards, strict=True)
        for answer, reward in zip(group.answers, row, strict=True)
        if name in answer.ratings and np.isfinite(reward)
    ]
    if not rows:
        return None
    rating, reward, prompt = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "count": len(rows),
        "rmse": float(np.sqrt(np.mean((reward - rating) ** 2))),
        "pearson": pearson(rating, reward),
        "spearman": pearson(ranks(rating), ranks(reward)),
        "within_prompts": pearson(_centred(rating, prompt), _centred(reward, prompt)),
    }


def _centred(values: Floats, prompt: Floats) -> Floats:
    _, row, count = np.unique(prompt, return_inverse=True, return_counts=True)
    centred: Floats = values - (np.bincount(row, weights=values) / count)[row]
    return centred
