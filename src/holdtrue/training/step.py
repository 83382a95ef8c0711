"""The gradient step: what the training loop takes as an argument.

A step adds gradients of Σ weight·term to the parameters and returns the sums it met; the loop divides
by the total weight of the whole optimiser step, over all passes and processes, exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import nan
from typing import ClassVar, Protocol

import torch

from holdtrue.losses import Loss, LossTerms, compared, gaps
from holdtrue.reward.model import Batch, RewardModel, RewardOutput


@dataclass
class Sums:
    """Sums over comparisons: loss terms and weights, right answers (ties 0.5), gaps, rewards."""

    loss: float = 0.0
    weight: float = 0.0
    correct: float = 0.0
    decided: float = 0.0
    gap: float = 0.0
    reward: float = 0.0
    reward_square: float = 0.0
    answers: float = 0.0
    comparisons: float = 0.0

    counted: ClassVar[str] = "comparisons"
    """What ``comparisons`` are called in ``metrics.jsonl``."""

    def add(self, other: Iterable[float]) -> None:
        """Add other sums, given in the order of the fields."""
        for field, value in zip(fields(self), other, strict=True):
            setattr(self, field.name, getattr(self, field.name) + value)

    def values(self) -> list[float]:
        """The sums in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]

    def metrics(self) -> dict[str, float]:
        """Means: loss (nats), accuracy and margin over what raters decided (NaN without any), and rewards."""
        answers, decided = max(self.answers, 1.0), self.decided or nan
        mean = self.reward / answers
        return {
            "loss": self.loss / self.weight if self.weight else 0.0,
            "accuracy": self.correct / decided,
            "margin": self.gap / decided,
            "reward_mean": mean,
            "reward_std": max(self.reward_square / answers - mean**2, 0.0) ** 0.5,
        }


class GradientStep(Protocol):
    """Adds gradients for the batches to the model's parameters and returns the sums over them."""

    def __call__(self, model: RewardModel, loss: Loss, batches: Iterable[Batch]) -> Sums: ...


def plain(model: RewardModel, loss: Loss, batches: Iterable[Batch]) -> Sums:
    """Gradient of the summed loss, batch by batch."""
    sums = Sums()
    for batch in batches:
        out = model(batch)
        terms = loss(out, batch.targets)
        (terms.terms * terms.weights).sum().backward()  # type: ignore[no-untyped-call]
        sums.add(measure(out, batch, terms))
    return sums


@torch.no_grad()
def measure(out: RewardOutput, batch: Batch, terms: LossTerms | None) -> list[float]:
    """Sums of one batch, in the order of :class:`Sums`. What has weight 0 counts nowhere.

    Where no comparison was made, accuracy is that of single answers, accepted by raters and by a reward
    above 0. Without ``terms`` loss and weight are left at 0.
    """
    targets = batch.targets
    gap = gaps(out, targets).double()
    weight = (targets.weight > 0).double()
    preferred = (targets.label - 0.5).sign().double() * weight
    rewards, used = gap.new_zeros(0), gap.new_zeros(0)
    if out.rewards is not None:
        rewards = out.rewards.double()
        used = compared(targets).double()
        if not len(gap):
            used = weight = targets.counted.double()
            gap, preferred = rewards, (targets.accepted.nan_to_num(0.5) - 0.5).sign().double() * used
    right = (gap * preferred).sign() * 0.5 + 0.5
    decided = preferred.abs()
    return torch.stack(
        [
            gap.new_zeros(()) if terms is None else (terms.terms * terms.weights).sum().double(),
            gap.new_zeros(()) if terms is None else terms.weights.sum().double(),
            (right * decided).sum(),
            decided.sum(),
            (gap * preferred).sum(),
            (rewards * used).sum(),
            (rewards.square() * used).sum(),
            used.sum(),
            weight.sum(),
        ]
    ).tolist()
