"""ODIN: two heads, one of which is made to carry length, so that the other need not.

    loss = softplus(-(gap of quality + length)) + length·(|ρ(tokens, quality)| - ρ(tokens, length head))

The sum of both heads ranks each pair; over the whole step Pearson's ρ with the answers' length is pushed to
0 for quality and to 1 for length; quality alone is the reward (arXiv 2402.07319, eq. 5-7). Lengths are in
tokens after what the answers to a prompt have in common. The published code sums rewards over the batch
before ranking; here each pair is ranked by itself, as the paper has it. The paper's penalty of heads that
are not orthogonal is left out, as in its code.

Needs comparisons, and steps large enough to correlate in (64 answers and more). Choose it where
``holdtrue check`` finds that longer answers win. Without ``length`` it is
:mod:`~holdtrue.losses.bradley_terry` of the sum of both heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import Loss, LossTerms, compared, given
from holdtrue.losses.bradley_terry import logistic

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class Odin(Loss):
    """Pairwise loss that moves length into a head of its own; for data in which longer answers win."""

    reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    coupled: ClassVar[bool] = True
    labels: ClassVar[tuple[str, ...] | None] = ("quality", "length")

    length: float = Field(1.0, ge=0)
    """Weight of the two correlations."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,): nats and the step's correlations."""
        logits = given(out, "logits")
        both = logits.sum(1)
        gap = both[targets.first] - both[targets.second]
        terms = logistic(gap, targets.label, targets.margin)
        counted, tokens = compared(targets), targets.length.to(logits.dtype)
        quality, length = (_correlation(tokens, column, counted) for column in logits.T)
        return LossTerms(terms + self.length * (quality.abs() - length), targets.weight)


def _correlation(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Pearson's ρ over the items that count; 0 where one side does not vary."""
    total = weight.sum().clamp_min(1)
    one = (one - (one * weight).sum() / total) * weight
    other = (other - (other * weight).sum() / total) * weight
    return (one * other).sum() / (one.square().sum() * other.square().sum()).clamp_min(1e-12).sqrt()
