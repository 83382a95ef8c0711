"""Drawing shared by the processes of a run: each draws the answers to a part of the prompts, all get all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdtrue.policy.sampler import Sampler
from holdtrue.policy.samples import Ids, Samples
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
