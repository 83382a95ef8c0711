"""Losses of fine-tuning: functions of what a policy says of the tokens it is to learn.

The loss of a step is the mean over all learned tokens of the step, each with the weight of its example:
Σ w·term / Σ w, whatever passes and processes they are computed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from holdtrue.losses import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.tokens.batches import Targets


class SftLoss(Loss):
    """Base of the losses of fine-tuning."""

    reads: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    unit: ClassVar[Literal["comparison", "answer", "prompt"]] = "answer"
    reference: str | None = None
    """Folder (or hub name) of the policy it is compared with, where the loss has one."""


def token_weights(targets: Targets) -> Tensor:
    """(M,) weight of each learned token: that of its example, which stands where ratings stand."""
    return (targets.ratings[:, 0] * targets.counted).repeat_interleave(targets.marks)
