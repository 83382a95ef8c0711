"""Bradley-Terry beside a contrastive loss that keeps what distinguishes the pairs of a step apart.

    d_i  = h_first,i - h_second,i                     difference of the pooled states of comparison i
    l_i  = -log exp(1 / τ) / Σ over e in E_i of exp(cos(d_i, e) / τ)                          [nats]
    loss = Bradley-Terry + weight · l

E_i holds ±d_i and ±d_j of all comparisons j of the step with another prompt. This is the preference
difference of arXiv 2401.06080, section 3 (contrastive learning for reward modelling) with the SimCSE loss
(arXiv 2104.08821, eq. 4) over the set {chosen - rejected, rejected - chosen}. There the positive is the same
difference under another dropout mask; here it is the difference itself, whose cosine is 1, as it is for
models without dropout (Llama, Qwen, Mistral, Gemma) and by default (``training.disable_dropout``). So what
is left is to push differences apart, and nothing is computed twice. Comparisons of one prompt share
answers, so they are not set against each other.

Needs comparisons. Choose it where :mod:`~holdtrue.losses.bradley_terry` generalises badly to other
policies; the more comparisons a step holds, the more there is to contrast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdtrue.losses import LossTerms, given
from holdtrue.losses.bradley_terry import BradleyTerry

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets

TINY = 1e-6
"""Added to squared lengths, so that equal states have a gradient."""


class Contrastive(BradleyTerry):
    """Bradley-Terry that also keeps what parts the pairs' answers diverse; for transfer to new policies."""

    reads: ClassVar[frozenset[str]] = frozenset({"rewards", "hidden"})
    coupled: ClassVar[bool] = True

    weight: float = Field(0.1, ge=0)
    """Weight of the contrastive loss, so small that it regularises and the preferences lead."""
    temperature: float = Field(0.05, gt=0)
    """τ: the lower, the more only the nearest differences count; SimCSE's value (arXiv 2104.08821)."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in nats; comparisons of weight 0 are not contrasted with either."""
        from torch import cat

        found = super().__call__(out, targets)
        hidden, tree = given(out, "hidden"), targets.tree[targets.first]
        difference = hidden[targets.first] - hidden[targets.second]
        unit = difference / (difference.square().sum(1, keepdim=True) + TINY).sqrt()
        alike = unit @ unit.T
        others = (tree[:, None] != tree[None, :]) & (targets.weight > 0)[None, :]
        itself = alike.new_tensor([1.0, -1.0]).expand(len(alike), 2)
        cosines = cat([itself, *(c.masked_fill(~others, float("-inf")) for c in (alike, -alike))], dim=1)
        apart = ((cosines - 1) / self.temperature).logsumexp(1)
        return LossTerms(found.terms + self.weight * apart, found.weights)
