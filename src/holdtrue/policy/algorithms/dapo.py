"""DAPO: GRPO with a higher upper clip and every token counting the same (arXiv 2503.14476, eq. 8 and 9).

    A    = (r - mean) / std of the group
    loss = mean over the step's tokens of -min(ρ_t·A, clip(ρ_t, 1 - 0.2, 1 + 0.28)·A)

The room above lets unlikely tokens grow, so that entropy lasts longer. The KL is left out, as in the paper.
Its other two parts are no matter of the loss: sampling again where a group's rewards are all equal, and a
reward for length, ``overlong``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.policy import advantages
from holdtrue.policy.algorithms import Algorithm
from holdtrue.policy.inputs import LossInputs, LossOutputs, Scored
from holdtrue.policy.objectives import token_mean

if TYPE_CHECKING:
    from torch import Tensor


class DAPO(Algorithm):
    """Group-relative advantages with clip-higher and a mean over tokens; for long answers."""

    clip_high: float = Field(0.28, gt=0)
    """The probability ratio is clipped above 1 + clip_high (arXiv 2503.14476, section 4.1: 0.28)."""

    def advantages(self, scored: Scored) -> Tensor:
        """(N,)"""
        return advantages.grpo(self.penalised(scored), scored.keep, scored.group)

    def loss(self, inputs: LossInputs) -> LossOutputs:
        """Mean over tokens of all answers of the step."""
        return self.clipped(inputs, inputs.log_ratio, token_mean(inputs))


def overlong(lengths: Tensor, limit: int, cache: int) -> Tensor:
    """Soft overlong punishment (arXiv 2503.14476, eq. 13), to be added to the reward; same shape.

    0 up to ``limit - cache`` tokens, from there falling evenly to -1 at ``limit``, and -1 beyond. The paper
    took a limit of 20,480 and a cache of 4,096.

    Raises:
        ValueError: the cache is not between 1 and the limit.
    """
    if not 0 < cache <= limit:
        raise ValueError(f"cache is between 1 and the limit of {limit} tokens, got {cache}")
    return ((limit - cache - lengths) / cache).clamp(-1, 0)
