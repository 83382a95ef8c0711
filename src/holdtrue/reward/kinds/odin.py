"""Two heads: quality, which is the reward, and length, which takes what only length explains (ODIN).

reward = quality · h(last token)          (arXiv 2402.07319; trained by the loss of the same name)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdtrue.reward.kinds import RewardKind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput


class Odin(RewardKind):
    """Quality and length heads; quality is the reward."""

    gives: ClassVar[frozenset[str]] = frozenset({"rewards", "logits", "hidden"})

    @property
    def labels(self) -> tuple[str, ...]:
        return ("quality", "length")

    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        from holdtrue.reward.model import RewardOutput

        return RewardOutput(rewards=logits[:, 0].clone(), logits=logits, hidden=hidden)
