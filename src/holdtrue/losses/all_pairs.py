"""All pairs of a prompt's answers, averaged: the loss of InstructGPT.

    loss = 1 / (pairs) · Σ over rating_i > rating_j of softplus(r_j - r_i)          [nats]

(arXiv 2203.02155, eq. 1.) All K answers are computed once, and each prompt counts once however many
answers it has. Pairs of equal rating are left out, as there; so are answers without a rating.

Needs a rating or rank per answer and at least two that differ. Choose it where raters ranked several
answers to a prompt: with two it is :mod:`~holdtrue.losses.bradley_terry`. Against
:mod:`~holdtrue.losses.plackett_luce` it weighs all pairs alike, so a wrong place at the end of the order
costs as much as one at its head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.losses import Loss, LossTerms, given, per_tree, ranked

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class AllPairs(Loss):
    """Mean Bradley-Terry loss over a prompt's pairs of different rating; for ranked lists of answers."""

    unit = "prompt"
    target = "ratings"

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (P,) in nats, one per prompt; weight 0 without two different ratings."""
        from torch.nn.functional import softplus

        rewards = given(out, "rewards")
        better, _ = ranked(targets)
        pairs = per_tree(better.sum(1).to(rewards.dtype), targets)
        losses = per_tree((softplus(rewards[None, :] - rewards[:, None]) * better).sum(1), targets)
        return LossTerms(losses / pairs.clamp_min(1), (pairs > 0).to(rewards.dtype))
