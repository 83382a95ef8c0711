"""Losses: pure functions of a reward model's output and what raters said of the batch.

A loss returns a term and a weight per item and never divides: the loop sums both over the whole
optimiser step (micro-batches, ranks, a second stream) and normalises once, so that none of these
change the gradient. A loss never owns or calls a model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from holdtrue import kinds
from holdtrue.errors import SettingsError
from holdtrue.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.records import Group
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
    target: ClassVar[Literal["comparisons", "ratings", "accepted", "steps"]] = "comparisons"
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

    def check(self, groups: Iterable[Group]) -> None:
        """Refuse what raters said where the loss cannot take it; asked before the model is loaded.

        Raises:
            DataError: what was seen and what would be right.
        """


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


def compared(targets: Targets) -> Tensor:
    """(N,) 1 for answers in a comparison that has weight, else 0."""
    used = (targets.weight > 0).to(targets.counted.dtype)
    none = used.new_zeros(len(targets.counted))
    return none.index_add(0, targets.first, used).index_add(0, targets.second, used).clamp_max(1)


def ranked(targets: Targets) -> tuple[Tensor, Tensor]:
    """(N, N) bool: the row is rated above the column; row and column are rated alike, or are the same answer.

    Within a tree, by the first rating, among the answers that count and have one.
    """
    from torch import eye

    rating = targets.ratings[:, 0].masked_fill(targets.counted <= 0, float("nan"))
    together = targets.tree[:, None] == targets.tree[None, :]
    equal = together & (rating[:, None] == rating[None, :])  # never true of NaN
    same = eye(len(rating), dtype=equal.dtype, device=rating.device)
    return together & (rating[:, None] > rating[None, :]), equal | same


def per_tree(values: Tensor, targets: Targets) -> Tensor:
    """(P,) sums of the answers' values by tree."""
    trees = int(targets.tree.max()) + 1 if len(targets.tree) else 0
    return values.new_zeros(trees).index_add(0, targets.tree, values)


def require_compatible(kind: RewardKind, loss: Loss) -> None:
    """Refuse a loss that a model's kind does not give what it learns from.

    Raises:
        SettingsError: says what the loss needs and which kinds of models it trains.
    """
    if compatible(kind, loss):
        return
    if kind.bounded and takes_logits(loss):
        problem = f"takes rewards for logits, and those of model.kind {kind.name()} as it is set are bounded"
    elif loss.needs <= given_by(kind) and loss.labels in (None, kind.labels):
        wanted = "a rating per output" if "logits" in loss.reads else "one rating per answer"
        problem = f"learns {wanted}; model.kind {kind.name()} is rated in {', '.join(kind.ratings)}"
    else:
        reads = " and ".join(sorted(loss.needs)) + (f" ({', '.join(loss.labels)})" if loss.labels else "")
        problem = f"reads {reads}, which model.kind {kind.name()} does not give"
    able = ", ".join(kinds_of(loss)) or "none"
    raise SettingsError(f"loss {loss.name()} {problem}; set model.kind to one it trains: {able}")


def compatible(kind: RewardKind, loss: Loss) -> bool:
    """Whether a model of this kind gives all that the loss reads.

    One that learns from ratings also needs one rating for each output it reads, or one for the reward.
    """
    rated = kind.labels if "logits" in loss.reads else kind.ratings[:1]
    return (
        loss.needs <= given_by(kind)
        and loss.labels in (None, kind.labels)
        and (loss.target != "ratings" or kind.ratings == rated)
        and not (kind.bounded and takes_logits(loss))
    )


def takes_logits(loss: Loss) -> bool:
    """Whether rewards or their gaps are log-odds to the loss; to those of single ratings they are ratings."""
    regresses = loss.target == "ratings" and loss.unit == "answer"
    return not regresses and bool(loss.needs & {"rewards", "gap"})


def given_by(kind: RewardKind) -> frozenset[str]:
    """Fields a model of this kind gives; rewards have gaps."""
    return kind.gives | {"gap"} if "rewards" in kind.gives else kind.gives


def kinds_of(loss: Loss) -> list[str]:
    """Names of the kinds of reward models the loss trains, as they are by default."""
    return [kind.name() for kind in kinds.one_of_each("holdtrue.reward.kinds") if compatible(kind, loss)]


def losses_of(kind: RewardKind) -> list[str]:
    """Names of the losses that train a kind of reward model."""
    return [loss.name() for loss in kinds.one_of_each(FAMILY) if compatible(kind, loss)]
