"""Bradley-Terry loss: the preferred answer should out-score the other.

    gap  = r_first - r_second
    loss = p·softplus(-(gap - margin)) + (1 - p)·softplus(gap + margin)
           + center·(r_first + r_second)²                                  [nats]

with p = P(first preferred), the row's soft label after smoothing. ``softplus(-x)`` is both the form
of OpenAI, -log σ(x) (arXiv 2203.02155, eq. 1), and that of Anthropic, log(1 + exp(-x))
(arXiv 2204.05862, section 2.2): one function, computed so that it never overflows.

Needs comparisons. Choose it first for pairs. Where many pairs are ties, see
:mod:`~holdtrue.losses.rao_kupper` and :mod:`~holdtrue.losses.davidson`; for answers in ranked lists
:mod:`~holdtrue.losses.all_pairs`; against length :mod:`~holdtrue.losses.odin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import Loss, LossTerms, gaps, given

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class BradleyTerry(Loss):
    """Pairwise logistic loss with margin, soft labels, weights, smoothing, centring; the first for pairs."""

    reads: ClassVar[frozenset[str]] = frozenset({"gap"})

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """ε: labels become (1 - ε)·p + ε·(1 - p), for labels known to be wrong that often."""
    center: float = Field(0.0, ge=0)
    """Weight of (r_first + r_second)², which pins the free offset of the rewards near 0
    (arXiv 2312.09244, eq. 2; TRL's ``center_rewards_coefficient``)."""

    @property
    def needs(self) -> frozenset[str]:
        return self.reads | {"rewards"} if self.center else self.reads

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in nats; the margin (arXiv 2307.09288, eq. 2) acts for the preferred side.

        Raises:
            ValueError: the model gives neither rewards nor gaps, or only gaps and ``center`` is set.
        """
        gap = gaps(out, targets)
        p = targets.label * (1 - 2 * self.label_smoothing) + self.label_smoothing
        terms = logistic(gap, p, targets.margin)
        if self.center:
            rewards = given(out, "rewards")
            terms = terms + self.center * (rewards[targets.first] + rewards[targets.second]).square()
        return LossTerms(terms, targets.weight)


def logistic(gap: Tensor, p: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """p·softplus(-(gap - margin)) + (1 - p)·softplus(gap + margin), element by element, in nats."""
    from torch.nn.functional import softplus

    return p * softplus(margin - gap) + (1 - p) * softplus(margin + gap)
