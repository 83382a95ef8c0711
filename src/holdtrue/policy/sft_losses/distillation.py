"""Likelihood of the data, and closeness to a reference policy on the same tokens.

    term_t = (1 - w) · (-log π(token_t | before)) + w · KL(π_ref(· | before) || π(· | before))          [nats]

The forward KL over the whole vocabulary, at temperature 1 (arXiv 1503.02531; per token of given
answers it is the supervised case of arXiv 2306.13649, section 3). It holds a policy to a healthy
reference; one with a bad habit teaches it. A step costs the reference's forward pass more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import LossTerms, given
from holdtrue.policy.sft_losses import SftLoss, token_weights

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class Distillation(SftLoss):
    """Cross-entropy of the data, and of a reference policy's probabilities at each of its tokens."""

    reads: ClassVar[frozenset[str]] = frozenset({"logprobs", "divergence"})

    reference: str
    """Folder (or hub name) of the reference, a causal LM or an adapter with the policy's own vocabulary."""
    weight: float = Field(0.5, ge=0, le=1)
    """w: 0 learns from the data alone, 1 from the reference alone."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (M,) in nats."""
        data, teacher = -given(out, "logprobs"), given(out, "divergence")
        return LossTerms((1 - self.weight) * data + self.weight * teacher, token_weights(targets))
