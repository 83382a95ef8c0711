"""A step shared by the processes of a run.

Each draws and judges the answers to a part of the prompts, and all get the whole, in the prompts' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.policy.rewards import Judge
from holdtrue.policy.sampler import Sampler
from holdtrue.policy.samples import Ids, Samples
from holdtrue.records import Rollout
from holdtrue.training.distributed import World


@dataclass(frozen=True)
class SharedSampler:
    """Another sampler, of which every process draws its part: the answers that it alone would draw."""

    sampler: Sampler
    world: World

    def sample(
        self, policy: Any, prompts: Sequence[Sequence[int] | Ids], group: int, seed: int, first: int = 0
    ) -> Samples:
        """See :meth:`Sampler.sample <holdtrue.policy.sampler.Sampler.sample>`."""
        own = self.world.part(len(prompts))
        drawn = None
        if prompts[own] or not len(prompts):  # the sampler itself says what is wrong with no prompt at all
            drawn = self.sampler.sample(policy, prompts[own], group, seed, first + own.start)
        parts = [part for part in self.world.gather(drawn) if part is not None]
        return Samples(
            [ids for part in parts for ids in part.prompt_ids],
            group,
            [ids for part in parts for ids in part.completion_ids],
            [logprobs for part in parts for logprobs in part.logprobs],
            [finish for part in parts for finish in part.finish],
            all(part.exact for part in parts),
        )


@dataclass(frozen=True)
class SharedJudge:
    """Another judge, which every process asks about its part of the groups."""

    own: Judge
    world: World

    def judge(self, rollouts: Sequence[Rollout], group: int) -> NDArray[np.float64]:
        """See :meth:`Judge.judge <holdtrue.policy.rewards.Judge.judge>`."""
        groups = self.world.part(len(rollouts) // group)
        part = rollouts[groups.start * group : groups.stop * group]
        found = self.own.judge(part, group) if part else np.zeros(0)
        return np.concatenate(self.world.gather(found))
