"""Correlations of two columns of numbers. Nothing here needs torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def pearson(x: Ints | Floats, y: Floats) -> float | None:
    """Pearson's correlation of two columns (N,); None when one of them does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    dx, dy = x - np.mean(x), y - np.mean(y)
    # Scaled first: squares of very small or large rewards leave the range of a float.
    dx, dy = dx / np.abs(dx).max(), dy / np.abs(dy).max()
    return float(np.clip(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy)), -1, 1))


def ranks(x: Ints | NDArray[np.floating]) -> Floats:
    """Ranks from 1 (N,); equal values share the mean of their ranks."""
    _, rows, counts = np.unique(x, return_inverse=True, return_counts=True)
    last: Floats = np.cumsum(counts).astype(np.float64)
    found: Floats = (last - (counts - 1) / 2)[rows]
    return found
