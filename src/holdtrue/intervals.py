"""Confidence intervals of proportions and of means."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist, fmean, pstdev


def wilson(successes: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion.

        (p + z²/2n ± z·√(p(1 - p)/n + z²/4n²)) / (1 + z²/n),   p = successes / n

    ``successes`` and ``count`` may be fractional (a tie counts 0.5). (0, 1) when ``count`` is 0.
    Source: E. B. Wilson, JASA 22 (1927).
    """
    if not count:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, spread = successes / count, z * z / count
    half = z * (p * (1 - p) / count + spread / (4 * count)) ** 0.5
    middle = p + spread / 2
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def normal(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Normal interval of a mean: mean ± z·σ/√n, with the population's σ (divided by n).

    Raises:
        StatisticsError: no values.
    """
    half = NormalDist().inv_cdf((1 + confidence) / 2) * pstdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half
