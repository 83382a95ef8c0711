"""Maximum likelihood of the completion's tokens, its stop token among them.

    term_t = -log π(token_t | all before)          [nats]

What the prompt, the template's headers and padding hold is no term. The mean is over tokens, so that a long
answer counts for more than a short one, as in transformers' own loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.losses import LossTerms, given
from holdtrue.policy.sft_losses import SftLoss, token_weights

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class Likelihood(SftLoss):
    """Cross-entropy of the completion's tokens: supervised fine-tuning as it is commonly done."""

    reference: None = None
    """None: the data alone is learned from."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (M,) in nats."""
        return LossTerms(-given(out, "logprobs"), token_weights(targets))
