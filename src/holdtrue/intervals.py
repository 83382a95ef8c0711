"""Confidence intervals of proportions and of means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist, fmean, pstdev, stdev
from typing import Any


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


def pooled(shares: Mapping[str, Mapping[str, Any]], most: int) -> dict[str, dict[str, Any]]:
    """Shares in their order, neighbours put together until there are ``most`` or fewer.

    Args:
        shares: name -> ``{"count", "rows"}``; ``"None"``, of rows without a value, has no neighbours and
            stands apart, beside the ``most``.

    Returns:
        ``"first–last"`` (or the name, of one alone) -> the sums, ``rate``, and Wilson's ``interval``.
    """
    names = [name for name in shares if name != "None"]
    ends = [round(len(names) * part / most) for part in range(most + 1)] if len(names) > most else None
    parts = pairwise(ends) if ends else pairwise(range(len(names) + 1))
    result = {}
    for own in [*(names[start:end] for start, end in parts), *([["None"]] if "None" in shares else [])]:
        count, rows = (sum(shares[name][key] for name in own) for key in ("count", "rows"))
        label = own[0] if len(own) == 1 else f"{own[0]}–{own[-1]}"
        rate = count / rows if rows else 0.0
        result[label] = {"count": count, "rows": rows, "rate": rate, "interval": [*wilson(count, rows)]}
    return result


def normal(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Normal interval of a mean: mean ± z·σ/√n, with the population's σ (divided by n).

    Raises:
        StatisticsError: no values.
    """
    half = NormalDist().inv_cdf((1 + confidence) / 2) * pstdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


def student(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of a few independent values: mean ± t·s/√n, n - 1 degrees of freedom.

    Raises:
        StatisticsError: fewer than two values.
    """
    half = t_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


def t_quantile(probability: float, freedom: int) -> float:
    """Where Student's distribution function reaches a probability in [0.5, 1), by bisection.

    With x = √ν·tan θ the function is 1/2 + a finite sum of powers of cos θ (Abramowitz and Stegun 26.7.3 and
    26.7.4), so it is exact but for rounding.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_share(middle, freedom) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _t_share(angle: float, freedom: int) -> float:
    """P(|T| < √ν·tan θ)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * cosine * cosine
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
