"""Several numbers per answer, one per aspect, weighed into one.

    reward = Σ_k weight_k · aspect_k          weights as set, or 1 / K each

An answer need not be rated in every aspect. The order of ``names`` is that of the head's outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from holdtrue.reward.kinds import RewardKind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput


class Aspects(RewardKind):
    """One number per aspect of an answer, and their weighted sum."""

    gives: ClassVar[frozenset[str]] = frozenset({"rewards", "logits", "hidden"})

    names: list[str] = Field(["rating"], min_length=1)
    """The aspects: names of the ratings they are trained on."""
    weights: dict[str, float] = Field({})
    """Weight of each aspect in the reward. By default all count alike; a name left out counts 0."""

    @model_validator(mode="after")
    def _weights_of_known_names(self) -> Aspects:
        if len(set(self.names)) < len(self.names):
            raise ValueError("an aspect is named twice")
        if unknown := sorted(set(self.weights) - set(self.names)):
            raise ValueError(f"weights name {unknown[0]!r}, which is not among the names")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.names)

    @property
    def ratings(self) -> tuple[str, ...]:
        return tuple(self.names)

    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        from holdtrue.reward.model import RewardOutput

        equal = dict.fromkeys(self.names, 1 / len(self.names))
        weights = [(self.weights or equal).get(name, 0.0) for name in self.names]
        return RewardOutput(rewards=logits @ logits.new_tensor(weights), logits=logits, hidden=hidden)
