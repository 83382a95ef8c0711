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

FEWEST_PROMPTS = 10
"""With fewer prompts the percentile interval is too narrow to be given."""

RESAMPLES = 10_000

_FEWEST_RESAMPLES = 1_000
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
    kinds = len(np.unique(np.column_stack([sums, counts]), axis=0))
    resamples = int(np.clip(_MOST_DRAWS // kinds, _FEWEST_RESAMPLES, RESAMPLES))
    return quantiles(_resampled(sums, counts, 0, resamples), confidence)


def interval_by_prompt(values: Floats, prompt: Ints, confidence: float) -> list[float] | None:
    """Low and high for the mean of ``values`` (B,) of prompts (B,); None with fewer than 10 prompts."""
    return intervals_by_prompt(values[:, None], prompt, confidence)[0]


def intervals_by_prompt(values: Floats, prompt: Ints, confidence: float) -> list[list[float] | None]:
    """The same for each column of ``values`` (B, M)."""
    sums, counts = by_prompt(values, prompt)
    if len(sums) < FEWEST_PROMPTS:
        return [None] * values.shape[1]
    low, high = interval_of_means(sums, counts, confidence)
    return [list(bounds) for bounds in zip(low.tolist(), high.tolist(), strict=True)]


def resampled_means(scores: Floats, prompt: Ints, seed: int) -> Floats:
    """(10000,) means of ``scores`` (B,) when their prompts (B,) are drawn anew with replacement."""
    return _resampled(*by_prompt(scores, prompt), seed, RESAMPLES)


def quantiles(draws: Floats, confidence: float) -> tuple[Floats, Floats]:
    """The middle ``confidence`` of resampled values (R,) or (R, M): the percentile bootstrap."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def _resampled(sums: Floats, counts: Ints, seed: int, resamples: int) -> Floats:
    """(resamples,) or (resamples, M) means."""
    # Prompts with the same sums and count are interchangeable, so drawing P prompts with replacement is one
    # multinomial draw over the distinct (sums, count): exact, and no slower for a million prompts.
    kinds, sizes = np.unique(np.column_stack([sums, counts]), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, step := max(1, _DRAWS_AT_ONCE // len(kinds))):
        drawn = rng.multinomial(len(sums), sizes / len(sums), size=min(step, resamples - start))
        parts.append((drawn @ kinds[:, :-1]) / (drawn @ kinds[:, -1:]))
    means: Floats = np.concatenate(parts).reshape(resamples, *sums.shape[1:])
    return means
