"""Which prompts a step answers: each in its turn, or more often those whose answers differ in reward.

Answers that all have the same reward have no advantage over one another, so a group baseline learns nothing
from them. A curriculum draws such prompts less often. With s_i the running mean of the standard deviation of
the rewards in prompt i's groups, and its mean over the prompts seen,

    weight_i = clip(s_i / mean(s), floor, 1)

A step's prompts are drawn without replacement by these weights, as the largest of log weight_i + Gumbel noise
(arXiv 1903.06059); prompts not seen yet come first. The mean reward that is maximised is then weighted so.

DAPO's dynamic sampling (arXiv 2503.14476, section 3.2) looks at the step instead: it draws on and throws
groups without spread away until the batch is full. Here a step costs what it always costs and every answer
counts, what a prompt gave before decides, and some groups without spread remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdtrue.policy.inputs import Scored
from holdtrue.policy.settings import CurriculumSettings

MEMORY = 0.5
"""What the mean before weighs beside the newest group: spreads of a few answers are noisy, and the policy
moves."""
TRAINING, HELD_OUT, OPPONENTS, ORDER = range(4)
"""Streams of a run's seed: three of draws, and that of the order of prompts."""


def spreads(scored: Scored) -> NDArray[np.float64]:
    """(P,) standard deviation of the rewards in each group; 0 where they are all the same, or fewer than two
    count, and nothing is learnt."""
    rewards_PG = scored.rewards.double().view(-1, scored.group).cpu().numpy()
    keep_PG = scored.keep.view(-1, scored.group).cpu().numpy()
    kept = [rewards[keep] for rewards, keep in zip(rewards_PG, keep_PG, strict=True)]
    # by the range: rounding gives equal numbers a standard deviation
    return np.array([one.std(ddof=1) if len(one) > 1 and np.ptp(one) > 0 else 0.0 for one in kept])


class Curriculum:
    """The order in which prompts are answered; it follows from the seed, the step and :attr:`spread_M`.

    Attributes:
        spread_M: running mean of each prompt's spread, NaN where it was not seen.
    """

    def __init__(self, prompts: int, seed: int, settings: CurriculumSettings | None = None) -> None:
        """Without settings all prompts come in a random order, then all in another."""
        self.seed = seed
        self.settings = settings
        self.spread_M = np.full(prompts, np.nan)

    def places(self, step: int, most: int) -> list[int]:
        """``most`` places of prompts for a step; none twice while there are enough."""
        count = len(self.spread_M)
        if self.settings is None:
            wanted = range(step * most, (step + 1) * most)
            orders = {
                epoch: np.random.default_rng([self.seed, epoch]).permutation(count)
                for epoch in {place // count for place in wanted}
            }
            return [int(orders[place // count][place % count]) for place in wanted]
        noise_M = np.random.default_rng([self.seed, ORDER, step]).gumbel(size=count)
        unseen_M = np.isnan(self.spread_M)
        order = np.lexsort((-np.log(self.weights()) - noise_M, ~unseen_M))
        return [int(order[i % count]) for i in range(most)]

    def weights(self) -> NDArray[np.float64]:
        """(M,) how often each prompt is drawn beside the others; 1 where it was not seen."""
        floor = 1.0 if self.settings is None else self.settings.floor
        seen = self.spread_M[~np.isnan(self.spread_M)]
        usual = float(seen.mean()) if len(seen) else 0.0
        if not usual:
            return np.ones(len(self.spread_M))
        return np.clip(np.nan_to_num(self.spread_M / usual, nan=1.0), floor, 1.0)

    def learn(self, places: Sequence[int], spread_P: NDArray[np.float64]) -> None:
        """Take what the groups of a step gave."""
        for place, spread in zip(places, spread_P, strict=True):
            before = self.spread_M[place]
            self.spread_M[place] = spread if np.isnan(before) else MEMORY * before + (1 - MEMORY) * spread

    def tensors(self) -> dict[str, Tensor]:
        """What changes while it runs; nothing without settings."""
        return {} if self.settings is None else {"spread_M": torch.from_numpy(self.spread_M)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a saved state."""
        if self.settings is not None:
            self.spread_M = tensors["spread_M"].numpy().copy()
