"""Plackett-Luce loss: the whole order of a prompt's answers at once.

    loss = -Σ_i log exp(r_i) / Σ_{j at or below i} exp(r_j)          [nats]

the probability of picking the best, then the best of the rest, and so on (Plackett 1975; K-wise maximum
likelihood, arXiv 2301.11270, eq. 9). Answers of equal rating are not ordered against each other (Breslow's
approximation: each is picked from all that are rated no higher). The last pick is certain and gives 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.losses import Loss, LossTerms, given

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class PlackettLuce(Loss):
    """Likelihood of the raters' order of all answers to a prompt."""

    unit = "prompt"
    target = "ratings"

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (P,) in nats, one per prompt."""
        from torch import stack

        rewards, rating = given(out, "rewards"), targets.ratings[:, 0]
        terms, weights = [], []
        for tree in range(int(targets.tree.max()) + 1):
            own = (targets.tree == tree) & ~rating.isnan()
            r, y = rewards[own], rating[own]
            below = y[None, :] <= y[:, None]
            left = r[None, :].expand(len(r), -1).masked_fill(~below, float("-inf")).logsumexp(1)
            ordered = below.sum(1) > (y[None, :] == y[:, None]).sum(1)  # something is rated lower
            terms.append(((left - r) * ordered).sum())
            weights.append(targets.counted[targets.tree == tree].max())
        return LossTerms(stack(terms), stack(weights))
