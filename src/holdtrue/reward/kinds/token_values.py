"""A value at every token of an answer, and the reward at its end.

    value_t = w · h_t          reward = value at the answer's last token

Trained token by token (DeepSpeed-Chat, trlx) the values say where in an answer it went wrong; saved, the
model is an ordinary scalar classifier. ``end`` is what policies use, so it is what is reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdtrue.reward.kinds import RewardKind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput


class TokenValues(RewardKind):
    """A value per token; the last one is the reward."""

    gives: ClassVar[frozenset[str]] = frozenset({"rewards", "values"})
    tokenwise: ClassVar[bool] = True

    @property
    def labels(self) -> tuple[str, ...]:
        return ("reward",)

    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        from torch import cat

        from holdtrue.reward.model import RewardOutput

        values = logits[:, 0].clone()
        return RewardOutput(rewards=values[ends], values=values, offsets=cat([ends.new_zeros(1), ends + 1]))
