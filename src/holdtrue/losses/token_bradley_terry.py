"""Bradley-Terry at every token from the first that differs (DeepSpeed-Chat, trlx, older LLaMA-Factory).

    loss = mean or sum over t >= divergence of softplus(v_rejected,t - v_chosen,t)          [nats]

Published versions compare padding of the shorter answer with text of the longer one. Here padding is never
in it: ``min`` stops at the shorter answer's end, ``max`` lets the shorter answer keep its last value.
With a single token it is :mod:`~holdtrue.losses.bradley_terry`.

Needs comparisons. Choose it to see where in an answer the reward falls; values are noisier than one reward
at the end, since early tokens are blamed for what later ones say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from holdtrue.losses import Loss, LossTerms, given
from holdtrue.losses.bradley_terry import logistic

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class TokenBradleyTerry(Loss):
    """Pairwise loss at every token of a pair's answers; for rewards that are read token by token."""

    reads: ClassVar[frozenset[str]] = frozenset({"values"})

    end: Literal["min", "max"] = "min"
    """Up to where: the end of the shorter answer, or of the longer one."""
    reduce: Literal["mean", "sum"] = "mean"
    """How a pair's tokens become its term."""

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (B,) in nats."""
        from torch import arange

        values, offsets = given(out, "values"), given(out, "offsets")
        begins, lengths = offsets[:-1], targets.length
        one, other = lengths[targets.first], lengths[targets.second]
        ends = one.minimum(other) if self.end == "min" else one.maximum(other)
        widest = int(ends.max()) if len(ends) else 0
        t = arange(widest, device=values.device)[None, :]
        gap = self._at(values, begins[targets.first], one, t) - self._at(
            values, begins[targets.second], other, t
        )
        inside = ((t >= targets.shared[:, None]) & (t < ends[:, None])).to(values.dtype)
        terms = (logistic(gap, targets.label[:, None], targets.margin[:, None]) * inside).sum(1)
        if self.reduce == "mean":
            terms = terms / inside.sum(1).clamp_min(1)
        return LossTerms(terms, targets.weight)

    @staticmethod
    def _at(values: Tensor, begin: Tensor, length: Tensor, t: Tensor) -> Tensor:
        """(B, T) each answer's value at token t, beyond its end its last one."""
        return values[begin[:, None] + t.minimum(length[:, None] - 1)]
