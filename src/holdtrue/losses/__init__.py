"""Losses: pure functions of a reward model's output and what raters said of the batch.

A loss returns a term and a weight per item and never divides: the loop sums both over the whole
optimiser step (micro-batches, ranks, a second stream) and normalises once, so that none of these
change the gradient. A loss never owns or calls a model.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from holdtrue import kinds
from holdtrue.errors import SettingsError
from holdtrue.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.kinds import RewardKind
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets

FAMILY = "holdtrue.losses"


@dataclass(frozen=True)
class LossTerms:
    """Terms of a batch's items (I,) in nats or squared rating units, and their weights (I,).

    The step's loss is Σ weight·term / Σ weight.
    """

    terms: Tensor
    weights: Tensor


class Loss(Kind):
    """Base of the losses."""

    reads: ClassVar[frozenset[str]] = frozenset({"rewards"})
    """Fields of RewardOutput the loss needs; a model whose kind does not give them is refused. ``gap`` is
    given by every kind that gives rewards."""
    unit: ClassVar[Literal["comparison", "answer", "prompt"]] = "comparison"
    """What its items are; a step's size is counted in them."""
    target: ClassVar[Literal["comparisons", "ratings", "accepted"]] = "comparisons"
    """What rows must hold."""
    coupled: ClassVar[bool] = False
    """True when items of a step depend on each other: it is then given the whole step at once."""
    labels: ClassVar[tuple[str, ...] | None] = None
    """The head's outputs it is made for, where it reads logits and not any will do."""

    @property
    def needs(self) -> frozenset[str]:
        """``reads``, and what its fields as they are set read besides."""
        return self.reads

    @abstractmethod
    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms and weights of the batch's items."""


def gaps(out: RewardOutput, targets: Targets) -> Tensor:
    """(B,) how much the first answer of each comparison is ahead: the model's own gap, or its rewards'."""
    if out.gap is not None:
        return out.gap
    rewards = given(out, "rewards")
    return rewards[targets.first] - rewards[targets.second]


def given(out: RewardOutput, name: str) -> Tensor:
    """A field of the output that the loss reads.

    Raises:
        ValueError: the model does not give it.
    """
    found: Tensor | None = getattr(out, name)
    if found is None:
        raise ValueError(f"the loss reads {name}, which this model does not give")
    return found


def require_compatible(kind: RewardKind, loss: Loss) -> None:
    """Refuse a loss that reads what a model's kind does not give.

    Raises:
        SettingsError: says what is missing and which kinds give it.
    """
    if not compatible(kind, loss):
        family = "holdtrue.reward.kinds"
        able = [n for n in kinds.names(family) if compatible(kinds.load(family, n)(), loss)]  # type: ignore[arg-type]
        reads = " and ".join(sorted(loss.needs)) + (f" ({', '.join(loss.labels)})" if loss.labels else "")
        raise SettingsError(
            f"loss {loss.name()} reads {reads}, which model.kind {kind.name()} does not give; "
            f"kinds that do: {', '.join(able) or 'none'}"
        )


def compatible(kind: RewardKind, loss: Loss) -> bool:
    """Whether a model of this kind gives all that the loss reads."""
    gives = kind.gives | {"gap"} if "rewards" in kind.gives else kind.gives
    return loss.needs <= gives and loss.labels in (None, kind.labels)
