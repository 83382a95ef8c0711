"""Bradley-Terry that does not let the model forget how to write: GRM with the SFT regulariser.

    s    = -log σ(β · log P(preferred answer | prompt))
    loss = (1 - α) · Bradley-Terry + α · s          [nats]

(arXiv 2406.10216, section 3.2; the variant its authors found best, with their α and β.) P is that of the
language model's own head on the states the reward is read from, so these stay states of a language model
and the reward generalises to answers unlike those of training. Soft labels weigh the two answers. P is of
the tokens after what the answers to a prompt have in common.

Needs comparisons, and ``model.kind: language`` on a causal LM. Choose it where few pairs are at hand or
policies will move far from them; a step costs more by the logits of the answers' tokens. Without α it is
:mod:`~holdtrue.losses.bradley_terry`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import LossTerms, given
from holdtrue.losses.bradley_terry import BradleyTerry

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class LmRegularised(BradleyTerry):
    """Bradley-Terry and the likelihood of the preferred answer (GRM); for few pairs and far policies."""

    reads: ClassVar[frozenset[str]] = frozenset({"rewards", "logprobs"})

    alpha: float = Field(0.01, ge=0, le=1)
    """α: share of the regulariser in the loss."""
    beta: float = Field(0.1, gt=0)
    """β: scale of the answer's log-probability, a sum over its tokens."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in nats."""
        from torch import arange
        from torch.nn.functional import softplus

        found = super().__call__(out, targets)
        logprobs, length = given(out, "logprobs"), targets.length
        answer = arange(len(length), device=length.device).repeat_interleave(length)
        likelihood = logprobs.new_zeros(len(length)).index_add(0, answer, logprobs)
        writing = softplus(-self.beta * likelihood)
        p = targets.label
        preferred = p * writing[targets.first] + (1 - p) * writing[targets.second]
        return LossTerms((1 - self.alpha) * found.terms + self.alpha * preferred, found.weights)
