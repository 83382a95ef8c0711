"""Several numbers per answer, one per aspect, weighed into one (ArmoRM, arXiv 2406.12845).

    a = W · h(last token) + b                    one per aspect, on the scale of its ratings
    reward = Σ_k g_k · (a_k - λ_k · a_v)         v the aspect of verbosity, if one is named

The weights g are as set, 1 / K each, or those of a gate that reads the prompt. The penalties λ take out of
each aspect what only verbosity explains; a_v itself, with λ = 1, then counts nothing. An answer need not be
rated in every aspect. The order of ``names`` is that of the head's outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from holdtrue.reward.kinds import RewardKind
from holdtrue.settings import Section

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.conversation import Marker


class GateSettings(Section):
    """A network that weighs the aspects by the prompt; trained on comparisons once the head is fitted."""

    temperature: float = Field(10.0, gt=0)
    """The gate's logits are divided by it: the higher, the more alike the aspects count."""
    width: int = Field(1024, gt=0)
    """Units of each hidden layer."""
    layers: int = Field(3, ge=0)
    """Hidden layers; with 0 the gate is linear."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout after each hidden layer, in training."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's rate at the beginning; it falls to 0 along a cosine."""
    steps: int = Field(500, gt=0)
    """Optimiser steps. Published: 2000, on half a million comparisons."""
    batch_size: int = Field(1024, gt=0)
    """Comparisons per step."""


class Aspects(RewardKind):
    """One number per aspect of an answer, and their sum weighed as set or by a gate that reads the prompt."""

    gives: ClassVar[frozenset[str]] = frozenset({"rewards", "logits", "hidden"})

    names: list[str] = Field(["rating"], min_length=1)
    """The aspects: names of the ratings they are trained on."""
    weights: dict[str, float] = Field({})
    """Weight of each aspect in the reward. By default all count alike; a name left out counts 0."""
    intercepts: dict[str, float] = Field({})
    """Added to the head's output, aspect by aspect; ``training.method: ridge`` fits them."""
    gate: GateSettings | None = None
    """Weigh by a gate instead; ``training.method: ridge`` trains it. ``{}`` for one as it is by default."""
    verbosity: str | None = None
    """The aspect that says how long-winded an answer is, whose share is taken out of all of them."""
    penalties: dict[str, float] = Field({})
    """λ of each aspect; a name left out has 0. By default ``training.method: ridge`` finds them."""

    @model_validator(mode="after")
    def _of_known_names(self) -> Aspects:
        if len(set(self.names)) < len(self.names):
            raise ValueError("an aspect is named twice")
        for field in ("weights", "intercepts", "penalties"):
            if unknown := sorted(set(getattr(self, field)) - set(self.names)):
                raise ValueError(f"{field} name {unknown[0]!r}, which is not among the names")
        if self.verbosity is not None and self.verbosity not in self.names:
            raise ValueError(f"verbosity is {self.verbosity!r}, which is not among the names")
        if self.penalties and self.verbosity is None:
            raise ValueError("penalties are of an aspect: name it in verbosity")
        if self.gate is not None and self.weights:
            raise ValueError("the aspects are weighed by weights or by a gate, not both")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.names)

    @property
    def ratings(self) -> tuple[str, ...]:
        return tuple(self.names)

    @property
    def marks(self) -> Marker | None:
        return None if self.gate is None else "prompt"

    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        from holdtrue.reward.model import RewardOutput

        aspects = logits + logits.new_tensor([self.intercepts.get(name, 0.0) for name in self.names])
        equal = dict.fromkeys(self.names, 1 / len(self.names))
        weights = [(self.weights or equal).get(name, 0.0) for name in self.names]
        rewards = self.without_verbosity(aspects) @ logits.new_tensor(weights)
        return RewardOutput(rewards=rewards, logits=aspects, hidden=hidden)

    def without_verbosity(self, aspects: Tensor) -> Tensor:
        """(N, K) aspects less their penalties, as they count in the reward."""
        if self.verbosity is None or not self.penalties:
            return aspects
        verbosity = aspects[:, self.names.index(self.verbosity), None]
        return aspects - verbosity * aspects.new_tensor([self.penalties.get(n, 0.0) for n in self.names])
