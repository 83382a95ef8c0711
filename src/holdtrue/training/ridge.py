"""Ridge regression of aspects on frozen states, in closed form (ArmoRM, arXiv 2406.12845, section 3.1).

    w = argmin Σ over rated answers of (w · h + b - rating)² + α |w|² = (HᵀH + α I)⁻¹ Hᵀ rating

Each aspect is fitted on the answers that have its rating. α is the one of a grid with the least squared error
on a fifth of the prompts, held out; the weights are then fitted on all of them. float64 throughout. With
an intercept b states and ratings are centred first, so that α does not shrink it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdtrue.correlation import Floats, pearson
from holdtrue.errors import DataError

ALPHAS = tuple(10.0**exponent for exponent in range(-4, 5))
_HELD_OUT = 5


@dataclass(frozen=True)
class Fitted:
    """One aspect's line: ``weights`` (D,) and ``intercept``, fitted on ``count`` answers.

    ``mse`` and ``pearson`` (``None`` where undefined) are on the ``held_out`` answers, of the line fitted on
    the others with the same α.
    """

    weights: Floats
    intercept: float
    alpha: float
    count: int
    held_out: int
    mse: float
    pearson: float | None


def fit(
    states: NDArray[np.float32],
    ratings: NDArray[np.float32],
    prompts: Sequence[str],
    names: Sequence[str],
    *,
    intercept: bool,
) -> list[Fitted]:
    """Lines of all aspects.

    Args:
        states: (N, D).
        ratings: (N, K), NaN where nobody rated.
        prompts: (N,) which prompt each answer belongs to. They are split by their order, so by hashes.
        names: (K,) of the aspects.

    Raises:
        DataError: an aspect is rated for fewer than two prompts, or the same everywhere.
    """
    require_learnable(ratings, prompts, names)
    known = ~np.isnan(ratings)
    keys = np.array(prompts)
    found: dict[int, Fitted] = {}
    for rows in np.unique(known, axis=1).T:  # aspects rated for the same answers are solved together
        own = [k for k in range(len(names)) if np.array_equal(known[:, k], rows)]
        x, y = states[rows].astype(np.float64), ratings[rows][:, own].astype(np.float64)
        found.update(zip(own, _fit_together(x, y, keys[rows], intercept), strict=True))
    return [found[k] for k in range(len(names))]


def require_learnable(ratings: NDArray[np.float32], prompts: Sequence[str], names: Sequence[str]) -> None:
    """Refuse aspects that nothing can be learnt of; arguments as of :func:`fit`.

    Raises:
        DataError: an aspect is rated for fewer than two prompts, or the same everywhere.
    """
    keys = np.array(prompts)
    for name, column in zip(names, ratings.T, strict=True):
        rated = ~np.isnan(column)
        if (count := len(np.unique(keys[rated]))) < 2:
            raise DataError(
                f"aspect {name!r} is rated for {count} prompt{'s' * (count != 1)}; "
                "alpha is chosen on held-out prompts, so two are needed"
            )
        if np.ptp(column[rated]) == 0:
            raise DataError(
                f"all {rated.sum()} ratings of {name!r} are {column[rated][0]:g}: there is nothing to learn; "
                "leave it out of model.kind.names"
            )


def _fit_together(x: Floats, y: Floats, prompts: NDArray[np.str_], intercept: bool) -> list[Fitted]:
    held = np.isin(prompts, np.unique(prompts)[::_HELD_OUT])
    weights, offsets = solve(x[~held], y[~held], ALPHAS, intercept=intercept)
    guesses = x[held] @ weights + offsets[:, None]
    errors = ((guesses - y[held]) ** 2).mean(1)
    best = errors.argmin(0)
    weights, offsets = solve(x, y, ALPHAS, intercept=intercept)
    return [
        Fitted(
            weights[a, :, k],
            float(offsets[a, k]),
            ALPHAS[a],
            len(x),
            int(held.sum()),
            float(errors[a, k]),
            pearson(guesses[a, :, k], y[held, k]),
        )
        for k, a in enumerate(best)
    ]


def solve(x: Floats, y: Floats, alphas: Sequence[float], *, intercept: bool) -> tuple[Floats, Floats]:
    """Weights (A, D, K) and intercepts (A, K) of states (N, D) and ratings (N, K) for every α.

    One eigendecomposition, of HᵀH or of HHᵀ, whichever is smaller, serves all of them.
    """
    centre, middle = (x.mean(0), y.mean(0)) if intercept else (np.zeros(x.shape[1]), np.zeros(y.shape[1]))
    x, y = x - centre, y - middle
    few = len(x) < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if few else x.T @ x)
    values = np.maximum(values, 0.0)  # rounding may leave them below
    turned = vectors.T @ (y if few else x.T @ y)
    weights = np.stack([vectors @ (turned / (values + alpha)[:, None]) for alpha in alphas])
    if few:
        weights = x.T @ weights
    return weights, middle - centre @ weights
