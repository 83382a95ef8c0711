"""Best of n: how good the answer is that the reward picks among n, where raters rated every answer.

Of K recorded answers to a prompt every n are equally likely to be the ones the reward chooses among. An
answer whose reward has rank r from below wins in C(r-1, n-1) of the C(K, n) draws, so

    E[gold rating of the pick] = Σ_r C(r-1, n-1) / C(K, n) · gold_(r)

Answers a to b (ranks) with equal rewards share C(b, n) - C(a-1, n) wins equally. This is exact over all
draws, and unbiased for the best of n fresh answers of the policy that wrote the K: Nakano et al. 2021
(arXiv 2112.09332), appendix I. The same with the rating in place of the reward is the oracle, the mean
rating is a random pick.

Best of n moves the policy by at most KL = log n - (n-1)/n nats. The formula is from Stiennon et al. 2020
(arXiv 2009.01325), appendix G.3; Beirami et al. 2024 (arXiv 2401.01879) prove that it is an upper
bound, not the KL itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from holdtrue.evaluation.bootstrap import intervals_by_prompt
from holdtrue.evaluation.pairs import Floats, Ints
from holdtrue.records import Group

RATING = "rating"
"""Name of the rating that counts as gold."""

_FEWEST_ANSWERS = 3
_SHARE = 0.9


def measure(
    groups: Sequence[Group], rewards: Sequence[Floats], lengths: Sequence[Ints], confidence: float
) -> dict[str, Any] | None:
    """The curve of the expected rating over n; None when no group has 3 answers with rating and reward.

    Every point is over the same groups: n goes up to the most answers that 9 of 10 of them have, and
    those with fewer are ``left_out``. ``longest`` picks by length in place of the reward. Intervals
    (of the model, and of its lead over a random pick) are by bootstrap over prompts, None with fewer
    than 10.
    """
    pools = [_pool(group, rewards[i], lengths[i]) for i, group in enumerate(groups)]
    rated = [i for i, pool in enumerate(pools) if pool.shape[1] >= _FEWEST_ANSWERS]
    if not rated:
        return None
    sizes = np.array([pools[i].shape[1] for i in rated])
    most = int(np.quantile(sizes, 1 - _SHARE, method="lower"))
    kept = [i for i in rated if pools[i].shape[1] >= most]
    numbers: dict[str, int] = {}
    prompt = np.array([numbers.setdefault(groups[i].prompt_key, len(numbers)) for i in kept])
    gold, ours, long = (np.array([curve(pools[i][by], pools[i][0], most) for i in kept]) for by in range(3))
    chance = gold[:, :1].repeat(most, axis=1)
    level, lead = (intervals_by_prompt(values, prompt, confidence) for values in (ours, ours - chance))
    return {
        "groups": len(kept),
        "prompts": len(numbers),
        "left_out": sum(any(RATING in a.ratings for a in group.answers) for group in groups) - len(kept),
        "confidence": confidence,
        "curve": [
            {
                "n": n,
                "kl": kl(n),
                "rating": float(ours[:, n - 1].mean()),
                "interval": level[n - 1],
                "lead_interval": lead[n - 1],
                "oracle": float(gold[:, n - 1].mean()),
                "random": float(chance[:, n - 1].mean()),
                "longest": float(long[:, n - 1].mean()),
            }
            for n in range(1, most + 1)
        ],
    }


def curve(rewards: Floats, gold: Floats, most: int) -> Floats:
    """(most,) expected gold of the answer with the highest reward among n of the K, n = 1 to most <= K."""
    _, block, counts = np.unique(rewards, return_inverse=True, return_counts=True)
    mean = np.bincount(block, weights=gold) / counts
    ends = np.cumsum(counts).tolist()
    result = []
    for n in range(1, most + 1):
        below = [math.comb(end, n) for end in [0, *ends]]
        wins = np.array([(b - a) / below[-1] for a, b in pairwise(below)])
        result.append(float(wins @ mean))
    return np.array(result)


def kl(n: int) -> float:
    """Upper bound in nats of how far best of n is from the policy."""
    return math.log(n) - (n - 1) / n


def _pool(group: Group, rewards: Floats, lengths: Ints) -> Floats:
    """Rating, reward and length (3, K) of the answers that have both rating and reward."""
    gold = np.array([answer.ratings.get(RATING, np.nan) for answer in group.answers])
    both = ~np.isnan(gold) & ~np.isnan(rewards)
    return np.stack([gold, rewards, lengths.astype(np.float64)])[:, both]
