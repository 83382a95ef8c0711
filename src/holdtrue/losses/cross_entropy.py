"""Cross-entropy of two classes: accepted answers against refused ones.

    loss = -a·log softmax(z)₁ - (1 - a)·log softmax(z)₀          [nats]

with a = 1 for accepted, 0 for refused, or the share of raters that accepted.

Needs a label per answer; where rows are pairs, the preferred answer is taken for accepted and the other
for refused. Choose it for a classifier that other tools read as one;
:mod:`~holdtrue.losses.binary_cross_entropy` is the same of an ordinary scalar model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdtrue.losses import Loss, LossTerms, given

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class CrossEntropy(Loss):
    """Cross-entropy of two classes, refused and accepted; for single answers with thumbs up or down."""

    reads: ClassVar[frozenset[str]] = frozenset({"logits"})
    unit = "answer"
    target = "accepted"
    labels: ClassVar[tuple[str, ...] | None] = ("refused", "accepted")

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (N,) in nats."""
        logprobs = given(out, "logits").log_softmax(-1)
        known = ~targets.accepted.isnan()
        a = targets.accepted.nan_to_num(0.0)
        return LossTerms(-a * logprobs[:, 1] - (1 - a) * logprobs[:, 0], targets.counted * known)
