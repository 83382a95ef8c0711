"""How often the preferred answer gets the higher reward, and how sure that number is.

    score of a comparison = 1 (preferred answer higher), 0.5 (equal rewards), 0 (lower)
    accuracy = mean score over the comparisons that raters decided (label ≠ 0.5), unweighted

The interval is Wilson's when every comparison has a prompt of its own. Comparisons of the same
prompt are not independent, so where prompts repeat, prompts are resampled instead of comparisons
(percentile bootstrap).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from holdtrue.evaluation.pairs import Floats, Ints
from holdtrue.intervals import wilson

Method = Literal["wilson", "bootstrap by prompt", "wilson over prompts"]

_RESAMPLES = 10_000
FEWEST_PROMPTS = 10
"""With fewer the bootstrap is too narrow."""
_SEED = 0


class Interval(NamedTuple):
    """A confidence interval and how it was made."""

    low: float
    high: float
    method: Method


def score(gap: Floats) -> Floats:
    """(B,) 1, 0.5 or 0 for a positive, zero or negative gap."""
    return (1 + np.sign(gap)) / 2


def interval(scores: Floats, prompt: Ints, confidence: float) -> Interval:
    """Interval of the mean of ``scores`` (B,), each in [0, 1], B > 0.

    Prompts (B,) all different: Wilson. Prompts that repeat: bootstrap over prompts. With fewer than
    10 prompts, or when all prompts have the same mean, the bootstrap would be too narrow; then Wilson
    with one observation per prompt, which is too wide rather than too narrow.
    """
    mean, count = float(scores.mean()), len(scores)
    sums, counts = _by_prompt(scores, prompt)
    prompts = len(sums)
    if prompts == count:
        return Interval(*wilson(mean * count, count, confidence), "wilson")
    if prompts < FEWEST_PROMPTS or np.ptp(sums / counts) == 0:
        return Interval(*wilson(mean * prompts, prompts, confidence), "wilson over prompts")
    return Interval(*_bootstrap(sums, counts, confidence), "bootstrap by prompt")


def resampled_means(scores: Floats, prompt: Ints, seed: int) -> Floats:
    """(10000,) means of ``scores`` (B,) when their prompts (B,) are drawn anew with replacement."""
    return _means(*_by_prompt(scores, prompt), seed)


def difference(ours: Floats, theirs: Floats, prompt: Ints, confidence: float) -> tuple[float, float] | None:
    """Interval of ``mean(ours - theirs)`` on the same comparisons (B,), by bootstrap over prompts.

    None with fewer than 10 prompts: the bootstrap would be too narrow.
    """
    sums, counts = _by_prompt(ours - theirs, prompt)
    return _bootstrap(sums, counts, confidence) if len(sums) >= FEWEST_PROMPTS else None


def _by_prompt(scores: Floats, prompt: Ints) -> tuple[Floats, Ints]:
    """Sum of the scores and number of the comparisons of each prompt."""
    _, rows = np.unique(prompt, return_inverse=True)
    return np.bincount(rows, weights=scores).astype(np.float64), np.bincount(rows).astype(np.int64)


def _bootstrap(sums: Floats, counts: Ints, confidence: float) -> tuple[float, float]:
    return quantiles(_means(sums, counts, _SEED), confidence)


def quantiles(draws: Floats, confidence: float) -> tuple[float, float]:
    """The middle ``confidence`` of resampled values: the percentile bootstrap."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _means(sums: Floats, counts: Ints, seed: int) -> Floats:
    # Prompts with the same sum and count are interchangeable, so drawing P prompts with replacement is one
    # multinomial draw over the few distinct (sum, count): exact, and no slower for a million prompts.
    kinds, sizes = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(sums), sizes / len(sums), size=_RESAMPLES)
    means: Floats = (drawn @ kinds[0]) / (drawn @ kinds[1])
    return means
