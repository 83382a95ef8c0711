"""All pairs of a prompt's answers, averaged: the loss of InstructGPT.

    loss = 1 / (pairs) · Σ over rating_i > rating_j of softplus(r_j - r_i)          [nats]

All K answers are computed once, and each prompt counts once however many answers it has
(arXiv 2203.02155, eq. 1). Pairs of equal rating are left out, as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.losses import Loss, LossTerms, given

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class AllPairs(Loss):
    """Mean Bradley-Terry loss over a prompt's pairs of different rating."""

    unit = "prompt"
    target = "ratings"

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (P,) in nats, one per prompt."""
        from torch import stack
        from torch.nn.functional import softplus

        rewards, rating = given(out, "rewards"), targets.ratings[:, 0]
        terms, weights = [], []
        for tree in range(int(targets.tree.max()) + 1):
            own = targets.tree == tree
            r, y = rewards[own], rating[own]
            better = y[:, None] > y[None, :]  # never true of NaN
            loss = softplus(r[None, :] - r[:, None]) * better
            terms.append(loss.sum() / better.sum().clamp_min(1))
            weights.append(targets.counted[own].max())
        return LossTerms(stack(terms), stack(weights))
