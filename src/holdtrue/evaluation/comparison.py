"""Several models on the same comparisons: each one's accuracy, and for each two the paired difference.

    difference = mean(score of a - score of b),   a comparison's score being 1, 0.5 or 0

Two models judged on the same comparisons are not independent, so intervals side by side say little; the
difference is paired. Its interval is by bootstrap over prompts. Where every comparison has a prompt of
its own there is also an exact test. Of the m comparisons on which one model does better, under the null
hypothesis each is equally likely to be that one:

    p = min(1, 2 · Σ_{k=0}^{min(better, worse)} C(m, k) / 2^m),   m = better + worse

Without ties in rewards that is McNemar's exact test (Q. McNemar, Psychometrika 12 (1947)); with them, the
sign test, which it is a case of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import DataError
from holdtrue.evaluation.accuracy import interval, score
from holdtrue.evaluation.bootstrap import interval_by_prompt
from holdtrue.evaluation.pairs import Floats, Ints, Pairs, collect, finite
from holdtrue.records import Group


def compare(
    groups: Sequence[Group],
    rewards: Mapping[str, Sequence[NDArray[np.floating]]],
    confidence: float,
) -> dict[str, Any]:
    """Two or more models on the comparisons that raters decided and that all of them could score.

    Args:
        groups: prompts with answers and comparisons.
        rewards: for each model, for each group (N answers,), NaN where an answer could not be scored.
        confidence: level of the intervals.

    Returns:
        ``models`` and ``baselines``: accuracy with interval, and how many comparisons a model could not
        judge (``unscored``); ``pairs``: per two models the
        difference with interval, its p-value or None, and ``agreement``, the share of comparisons where
        both prefer the same answer (or neither does) with its interval. p-values are not adjusted for
        the number of pairs.

    Raises:
        DataError: there is no comparison that all models could score.
    """
    scored = {name: finite(rows) for name, rows in rewards.items()}
    lengths = [np.array([len(answer.text) for answer in group.answers], dtype=np.int64) for group in groups]
    missing = [
        np.where(np.any(np.isnan(rows), axis=0), np.nan, 0.0)
        for rows in zip(*scored.values(), strict=True)  # what one model lacks is left out for all
    ]
    judged = {}
    for name, rows in scored.items():
        pairs = collect(groups, [row + gone for row, gone in zip(rows, missing, strict=True)], lengths)
        judged[name] = pairs.take(pairs.decided)
    one = next(iter(judged.values()))
    if not len(one):
        raise DataError(
            f"no comparison to compare on: {sum(len(group.comparisons) for group in groups)} in the data, "
            f"{one.unscored} without rewards from every model, the others tied by raters"
        )
    own = len(np.unique(one.prompt)) == len(one)
    return {
        "count": len(one),
        "prompts": len(np.unique(one.prompt)),
        "label_ties": len(pairs) - len(one),
        "unscored_comparisons": one.unscored,
        "confidence": confidence,
        "models": {
            name: _measure(found.gap, found.prompt, confidence)
            | {"unscored": collect(groups, scored[name], lengths).unscored}
            for name, found in judged.items()
        },
        "baselines": {
            "longer_answer": _measure(one.length_gap, one.prompt, confidence),
            "shorter_answer": _measure(-one.length_gap, one.prompt, confidence),
        },
        "pairs": [
            {"first": a, "second": b} | _pair(judged[a], judged[b], own, confidence)
            for a, b in combinations(judged, 2)
        ],
    }


def exact_p(better: int, worse: int) -> float:
    """Two-sided p-value of ``better`` against ``worse``, were both equally likely; 1 when there are none."""
    m, few = better + worse, min(better, worse)
    logs = np.array([-math.lgamma(k + 1) - math.lgamma(m - k + 1) for k in range(few + 1)])
    return min(1.0, 2 * float(np.exp(logs + math.lgamma(m + 1) - m * math.log(2)).sum()))


def _measure(gap: Floats, prompt: Ints, confidence: float) -> dict[str, Any]:
    scores = score(gap)
    low, high, method = interval(scores, prompt, confidence)
    return {
        "accuracy": float(scores.mean()),
        "interval": [low, high],
        "interval_method": method,
        "ties": int((gap == 0).sum()),
    }


def _pair(a: Pairs, b: Pairs, own_prompts: bool, confidence: float) -> dict[str, Any]:
    ours, theirs = score(a.gap), score(b.gap)
    better, worse = int((ours > theirs).sum()), int((ours < theirs).sum())
    same = (ours == theirs).astype(np.float64)
    return {
        "difference": float((ours - theirs).mean()),
        "interval": interval_by_prompt(ours - theirs, a.prompt, confidence),
        "first_better": better,
        "second_better": worse,
        "p": exact_p(better, worse) if own_prompts else None,
        "agreement": float(same.mean()),
        "agreement_interval": list(interval(same, a.prompt, confidence)[:2]),
    }
