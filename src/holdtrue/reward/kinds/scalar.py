"""One number per answer, read at its last token: the reward model of InstructGPT and most since.

reward = w · h(last token)          (arXiv 2203.02155, section 3.5)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdtrue.reward.kinds import RewardKind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput


class Scalar(RewardKind):
    """One number per answer."""

    gives: ClassVar[frozenset[str]] = frozenset({"rewards", "hidden"})

    @property
    def labels(self) -> tuple[str, ...]:
        return ("reward",)

    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        from holdtrue.reward.model import RewardOutput

        return RewardOutput(rewards=logits[:, 0].clone(), hidden=hidden)
