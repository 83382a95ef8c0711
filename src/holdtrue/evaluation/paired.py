"""Two ways to train, compared on the same comparisons over the same seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdtrue.evaluation.bootstrap import FEWEST_PROMPTS, quantiles
from holdtrue.evaluation.pairs import Floats, Ints

_RESAMPLES = 2000
_SEED = 0


def interval(differences: NDArray[np.float64], prompt: Ints, confidence: float) -> tuple[float, float] | None:
    """Interval of the mean of paired differences (S seeds, B comparisons), for other prompts and other seeds.

    Prompts and seeds are each drawn with replacement, independently (percentile bootstrap): every
    comparison is measured under every seed, so neither are its S differences independent nor those of one
    seed. Source: A. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007), 386-411.
    S seeds show only (S - 1) / S of the variance between seeds: with one, the interval holds for that seed.

    None with fewer than 10 prompts: the bootstrap would be too narrow.
    """
    _, rows = np.unique(prompt, return_inverse=True)
    counts = np.bincount(rows)
    prompts, seeds = len(counts), len(differences)
    if prompts < FEWEST_PROMPTS:
        return None
    sums = np.stack([np.bincount(rows, weights=of_seed) for of_seed in differences], axis=1)  # (P, S)
    rng = np.random.default_rng(_SEED)
    means: Floats = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        drawn = np.bincount(rng.integers(prompts, size=prompts), minlength=prompts)
        of_seeds = np.bincount(rng.integers(seeds, size=seeds), minlength=seeds)
        means[i] = drawn @ sums @ of_seeds / (drawn @ counts * seeds)
    low, high = quantiles(means, confidence)
    return float(low), float(high)
