"""The bootstrap over prompts: how far a mean would move if other prompts had been drawn.

Comparisons (answers, groups) of one prompt are not independent, so prompts are drawn, P of P with
replacement, each with all that belongs to it:

    mean of a resample = Σ sums of the drawn prompts / Σ counts of the drawn prompts

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 6.4 (resampling what is
independent) and 13.3 (percentile intervals).
"""

from __future__ import annotations

import numpy as np

from holdtrue.evaluation.pairs import Floats, Ints

FEWEST = 10
"""With fewer prompts the percentile interval is too narrow to be given."""

_SEED = 0
_MOST_RESAMPLES, _FEWEST_RESAMPLES = 10_000, 1_000
_MOST_DRAWS = 20_000_000
_DRAWS_AT_ONCE = 4_000_000


def by_prompt(values: Floats, prompt: Ints) -> tuple[Floats, Ints]:
    """Sum of the values (B,) or (B, M) of each prompt, (P,) or (P, M), and how many there are (P,)."""
    _, rows = np.unique(prompt, return_inverse=True)
    sums = np.zeros((rows.max(initial=-1) + 1, *values.shape[1:]))
    np.add.at(sums, rows, values)
    return sums, np.bincount(rows).astype(np.int64)


def interval_of_means(sums: Floats, counts: Ints, confidence: float) -> tuple[Floats, Floats]:
    """Percentile interval of Σ sums / Σ counts: low and high, each a number or (M,).

    ``sums`` (P,) or (P, M) and ``counts`` (P,) are those of the prompts; all M columns see the same
    resamples. 10,000 of them, fewer (at least 1,000) where thousands of prompts all differ.
    """
    means = _resampled(sums.reshape(len(sums), -1), counts)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low.reshape(sums.shape[1:]), high.reshape(sums.shape[1:])


def _resampled(sums: Floats, counts: Ints) -> Floats:
    # Prompts with the same sums and count are interchangeable, so drawing P prompts with replacement is one
    # multinomial draw over the distinct (sums, count): exact, and no slower for a million prompts.
    kinds, sizes = np.unique(np.column_stack([sums, counts]), axis=0, return_counts=True)
    resamples = int(np.clip(_MOST_DRAWS // len(kinds), _FEWEST_RESAMPLES, _MOST_RESAMPLES))
    share = sizes / sizes.sum()
    rng = np.random.default_rng(_SEED)
    parts = []
    for start in range(0, resamples, step := max(1, _DRAWS_AT_ONCE // len(kinds))):
        drawn = rng.multinomial(sizes.sum(), share, size=min(step, resamples - start))
        parts.append((drawn @ kinds[:, :-1]) / (drawn @ kinds[:, -1:]))
    return np.concatenate(parts)
