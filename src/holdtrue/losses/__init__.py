"""Losses: pure functions of a reward model's output and the comparisons of a batch.

A loss returns a term and a weight per item and never divides: the loop sums both over the whole
optimiser step (micro-batches, ranks, a second stream) and normalises once, so that none of these
change the gradient. A loss never owns or calls a model.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from holdtrue.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Comparisons


@dataclass(frozen=True)
class LossTerms:
    """Per-item terms (B,) in nats and weights (B,); the step's loss is Σ weight·term / Σ weight."""

    terms: Tensor
    weights: Tensor


class Loss(Kind):
    """Base of the losses."""

    reads: ClassVar[frozenset[str]] = frozenset({"rewards"})
    """Fields of RewardOutput the loss needs; decides which rows the last layer computes."""
    coupled: ClassVar[bool] = False
    """True when items of a batch depend on each other, so that splitting the batch would change them."""

    @abstractmethod
    def __call__(self, out: RewardOutput, batch: Comparisons) -> LossTerms:
        """Terms and weights of the batch's items."""
