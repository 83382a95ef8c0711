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

from holdtrue.evaluation import bootstrap
from holdtrue.evaluation.pairs import Floats, Ints
from holdtrue.intervals import wilson

Method = Literal["wilson", "bootstrap by prompt", "wilson over prompts"]


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
    sums, counts = bootstrap.by_prompt(scores, prompt)
    prompts = len(sums)
    if prompts == count:
        return Interval(*wilson(mean * count, count, confidence), "wilson")
    if prompts < bootstrap.FEWEST_PROMPTS or np.ptp(sums / counts) == 0:
        return Interval(*wilson(mean * prompts, prompts, confidence), "wilson over prompts")
    low, high = bootstrap.interval_of_means(sums, counts, confidence)
    return Interval(float(low), float(high), "bootstrap by prompt")
