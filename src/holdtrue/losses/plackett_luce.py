"""Plackett-Luce loss: the whole order of a prompt's answers at once.

    loss = -Σ_i log exp(r_i) / Σ_{j at or below i} exp(r_j)          [nats]

the probability of picking the best, then the best of the rest, and so on (Plackett 1975, Applied Statistics
24:193-202; K-wise maximum likelihood, arXiv 2301.11270, section 4). Answers of equal rating are not ordered
against each other (Breslow's approximation: each is picked from all that are rated no higher). The last
pick is certain and gives 0; so do answers without a rating.

Needs a rating or rank per answer and at least two that differ. Choose it where raters put all answers in
one order: with two it is :mod:`~holdtrue.losses.bradley_terry`, with more the head of the order matters
most. :mod:`~holdtrue.losses.all_pairs` takes the pairs of the order one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.losses import Loss, LossTerms, given, per_tree, ranked

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class PlackettLuce(Loss):
    """Likelihood of the raters' order of all answers to a prompt; for ranked lists, best answers first."""

    unit = "prompt"
    target = "ratings"

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (P,) in nats, one per prompt; weight 0 without two different ratings."""
        rewards = given(out, "rewards")
        better, equal = ranked(targets)
        ordered = better.any(1)  # something is rated lower: the pick is not certain
        left = rewards.expand(len(rewards), -1).masked_fill(~(better | equal), float("-inf")).logsumexp(1)
        terms = per_tree((left - rewards) * ordered, targets)
        return LossTerms(terms, per_tree(ordered.to(rewards.dtype), targets).clamp_max(1))
