"""Binary cross-entropy on the reward itself, taken for the logit of P(accepted).

    loss = a·softplus(-r) + (1 - a)·softplus(r)          [nats]

with a = 1 for accepted, 0 for refused, or the share of raters that accepted. Computed from the logit, it
never saturates as y·log(p) of a probability does.

Needs a label per answer; where rows are pairs, the preferred answer is taken for accepted and the other
for refused. Choose it for thumbs up and down. The same as :mod:`~holdtrue.losses.cross_entropy` of two
logits whose gap is r, with one head output, so the model stays an ordinary scalar one. Its zero is
meaningful: above it means accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.losses import Loss, LossTerms, given

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class BinaryCrossEntropy(Loss):
    """Cross-entropy of the reward as the logit of P(accepted); for single answers with thumbs up or down."""

    unit = "answer"
    target = "accepted"

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (N,) in nats."""
        from torch.nn.functional import softplus

        rewards = given(out, "rewards")
        known = ~targets.accepted.isnan()
        a = targets.accepted.nan_to_num(0.0)
        return LossTerms(a * softplus(-rewards) + (1 - a) * softplus(rewards), targets.counted * known)
