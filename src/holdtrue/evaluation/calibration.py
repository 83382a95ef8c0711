"""Whether P(first preferred) = σ(gap / T) can be taken at its word.

A comparison has no natural order: always putting the preferred answer first would make every outcome
1 and any over-confident model look calibrated. So the model's own favourite is asked about instead:

    confidence c = σ(|gap|) in [0.5, 1),   outcome y = P(the favourite is the preferred answer)

(label where gap > 0, 1 - label where gap < 0, 0.5 where gap = 0.) Showing each comparison in both
orders would only add the mirror image of every bin, with the same error. Labels are used as
probabilities, so soft labels and ties count here; weights do not.

    ECE = Σ_bins n/B · |mean c - mean y|     log loss = mean -(y·log c + (1 - y)·log(1 - c))  [nats]
    Brier = mean (c - y)²                    T = argmin of the log loss of σ(|gap| / T)

Bins hold about equally many comparisons: the gaps of a weak model all lie close to 0, where bins of
equal width would put everything into one. Sources: Guo et al. 2017 (arXiv 1706.04599), sections 2, 4.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from holdtrue.evaluation.pairs import Floats, Pairs
from holdtrue.intervals import wilson

_FARTHEST = 100.0


class Temperature(NamedTuple):
    """The fitted T; ``bounded`` when the best T lies at or beyond the end of the range searched."""

    value: float | None
    bounded: bool


def favourite(pairs: Pairs) -> tuple[Floats, Floats]:
    """|gap| (B,) and outcome y (B,) of the answer the model favours."""
    flipped = np.where(pairs.gap < 0, 1 - pairs.label, pairs.label)
    return np.abs(pairs.gap), np.where(pairs.gap == 0, 0.5, flipped)


def sigmoid(x: Floats) -> Floats:
    """σ(x) without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def log_loss(size: Floats, outcome: Floats) -> float:
    """Mean cross-entropy in nats of σ(size) against outcome; size and outcome are (B,)."""
    return float(np.mean(np.logaddexp(0.0, -size) + (1 - outcome) * size))


def brier(size: Floats, outcome: Floats) -> float:
    """Mean squared distance of σ(size) and outcome."""
    return float(np.mean((sigmoid(size) - outcome) ** 2))


def fit_temperature(size: Floats, outcome: Floats) -> Temperature:
    """T that minimises the log loss of σ(size / T).

    The loss is convex in 1/T, so bisection on the sign of its slope finds the minimum. T is searched
    between 1/100 and 100 times the root mean square gap: comparisons that are all ordered rightly
    have no best T (it falls to 0), nor have rewards that order no better than chance (it grows
    without end); then the bound is returned and said to be one. None when every gap is 0.
    """
    scale = float(np.sqrt(np.mean(size**2)))
    if scale == 0:
        return Temperature(None, False)
    unit = size / scale

    def slope(log_inverse: float) -> float:
        return float(np.mean((sigmoid(unit * np.exp(log_inverse)) - outcome) * unit))

    low, high = -np.log(_FARTHEST), np.log(_FARTHEST)
    if slope(low) >= 0:
        return Temperature(scale * _FARTHEST, True)
    if slope(high) <= 0:
        return Temperature(scale / _FARTHEST, True)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return Temperature(scale * float(np.exp(-(low + high) / 2)), False)


def reliability(size: Floats, outcome: Floats, bins: int, confidence: float) -> list[dict[str, Any]]:
    """Rows of the reliability diagram: bounds, count, mean confidence, share right with Wilson interval.

    At most ``bins`` rows; comparisons with the same confidence always share one.
    """
    sure = sigmoid(size)
    edges = np.unique(np.quantile(sure, np.linspace(0, 1, bins + 1), method="inverted_cdf"))
    row = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, max(len(edges) - 2, 0))
    table = []
    for index in np.unique(row):
        inside = row == index
        count, right = int(inside.sum()), float(outcome[inside].mean())
        table.append(
            {
                "low": float(sure[inside].min()),
                "high": float(sure[inside].max()),
                "count": count,
                "confidence": float(sure[inside].mean()),
                "accuracy": right,
                "interval": list(wilson(right * count, count, confidence)),
            }
        )
    return table


def ece(table: list[dict[str, Any]]) -> float:
    """Expected calibration error of a reliability table, in [0, 1]."""
    total = sum(row["count"] for row in table)
    return float(sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in table) / total)
