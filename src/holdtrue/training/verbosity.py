"""Penalties that take verbosity out of the other aspects (ArmoRM, arXiv 2406.12845, section 3.3).

    λ_k = the first of a grid with |Spearman(a_k - λ · a_v, a_v)| <= 0.03 on a reference set

The grid runs from 0 in steps of a hundredth of std(a_k) / std(a_v), upwards where the two go together and
downwards where they go apart, to twice that ratio. What no longer varies is not correlated, so a_v has λ = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdtrue.correlation import pearson, ranks
from holdtrue.errors import DataError

BOUND = 0.03
_STEPS = 200


def penalties(aspects: NDArray[np.float32], names: Sequence[str], verbosity: str) -> dict[str, float]:
    """λ of each aspect, from (N, K) aspects of a reference set.

    Raises:
        DataError: no λ of the grid takes an aspect's correlation within the bound.
    """
    verbose = aspects[:, list(names).index(verbosity)]
    order = ranks(verbose)
    found = {}
    for name, own in zip(names, aspects.T, strict=True):
        ratio = float(np.std(own.astype(np.float64)) / max(np.std(verbose.astype(np.float64)), 1e-30))
        sign = -1 if (_correlation(own, order) or 0.0) < 0 else 1
        tried = {}
        for step in range(_STEPS + 1):
            penalty = 1.0 if name == verbosity else sign * ratio * step / (_STEPS / 2)
            # in float32, as the model will compute it
            tried[penalty] = abs(_correlation(own - np.float32(penalty) * verbose, order) or 0.0)
            if tried[penalty] <= BOUND:
                found[name] = penalty
                break
        else:
            best = min(tried, key=lambda penalty: tried[penalty])
            raise DataError(
                f"no penalty takes the correlation of {name!r} with {verbosity!r} below {BOUND} on "
                f"{len(aspects)} answers: it stays at {tried[best]:.2f} with {best:.3g}; "
                "set model.kind.penalties, or fit on more answers"
            )
    return found


def _correlation(column: NDArray[np.float32], order: NDArray[np.float64]) -> float | None:
    return pearson(ranks(column), order)
