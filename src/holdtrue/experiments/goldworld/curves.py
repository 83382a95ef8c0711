"""Gold along a policy's way from the reference: read off at a KL, averaged, fitted.

    way     (KL, gold) of steps 0, 1, ...: both are means over three neighbouring steps, as each is noisy
    at k    gold where the way first reaches KL k, linear between steps; None where it never does
    area    mean gold over √KL from 0 to √k
    fits    d = √KL;  optimisation  gold = d (α - β log d),  best of n  gold = d (α - β d)

Source of the fits: Gao, Schulman and Hilton, arXiv 2210.10760, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_WINDOW = 3
_GRID = 33
_NEAREST = 0.05
"""Nats; fits leave out what is nearer to the reference, where log d runs away."""


def way(steps: Sequence[Mapping[str, Any]], name: str = "gold") -> tuple[Floats, Floats]:
    """KL and a column of the start and of all windows of steps; rows that lack one are left out."""
    rows = [(row["kl"], row[name]) for row in steps if row["kl"] is not None and row[name] is not None]
    if len(rows) < _WINDOW:
        return np.zeros(1), np.zeros(1)
    table = np.lib.stride_tricks.sliding_window_view(np.array(rows), _WINDOW, axis=0).mean(-1)
    table[:, 0] = np.maximum(table[:, 0], 0.0)  # an unbiased estimate of what is near 0 is below it at times
    start = np.zeros((1, 2)) if name == "gold" else table[:1] * [0, 1]
    return tuple(np.concatenate([start, table]).T)


def at(kls: Floats, gold: Floats, k: float) -> float | None:
    """Gold where KL first reaches ``k``."""
    reached = np.flatnonzero(kls >= k)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0 or kls[i] == kls[i - 1]:
        return float(gold[i])
    share = (k - kls[i - 1]) / (kls[i] - kls[i - 1])
    return float(gold[i - 1] + share * (gold[i] - gold[i - 1]))


def area(kls: Floats, gold: Floats, k: float) -> float | None:
    """Mean gold over √KL from 0 to √k; None where KL never reaches ``k``."""
    if kls.max() < k:
        return None
    return float(np.mean([at(kls, gold, min(x * x, k)) for x in np.linspace(0, math.sqrt(k), _GRID)]))


def fit(kls: Floats, gold: Floats, form: str) -> dict[str, float] | None:
    """α, β and the share of variance explained, by least squares; None of fewer than three points.

    ``form``: ``optimisation`` or ``best_of_n``.
    """
    far = kls > _NEAREST
    if far.sum() < 3:
        return None
    d = np.sqrt(kls[far])
    second = d * np.log(d) if form == "optimisation" else d * d
    matrix = np.stack([d, -second], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(matrix, gold[far], rcond=None)
    left = np.square(gold[far] - matrix @ [alpha, beta]).sum()
    all_of_it = np.square(gold[far] - gold[far].mean()).sum()
    return {
        "alpha": float(alpha),
        "beta": float(beta),
        "r2": float(1 - left / all_of_it) if all_of_it else 1.0,
    }
