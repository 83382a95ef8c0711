"""Kinds of reward models: how a number is made from what the backbone computes.

    logits = head(state)          (N, K), or one row per answer token for kinds that value tokens
    reward = a function of an answer's logits

A kind holds no weights. The head is the linear layer ``score`` of transformers' classifiers.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from holdtrue.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardModel, RewardOutput
    from holdtrue.reward.store import Loaded, Source
    from holdtrue.tokens.conversation import Marker, Truncation
    from holdtrue.tokens.joint import JointEncoder


class RewardKind(Kind):
    """Base of the kinds of reward models."""

    gives: ClassVar[frozenset[str]]
    """Fields of RewardOutput it fills."""
    tokenwise: ClassVar[bool] = False
    """Whether the head reads every token of an answer, not only its last."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Names of the head's outputs, as they stand in ``config.json``."""

    @property
    def ratings(self) -> tuple[str, ...]:
        """Ratings the outputs are trained on, where a loss learns from ratings."""
        return ("rating",)

    @property
    def bounded(self) -> bool:
        """Whether rewards are confined to an interval, so that no loss can take them for logits."""
        return False

    @property
    def marks(self) -> Marker | None:
        """Tokens that are read besides an answer's last: the prompt's last, or instead the ends of steps."""
        return None

    @abstractmethod
    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        """The output made from the head's.

        ``logits`` (N, K) and ``hidden`` (N, D) are of answers, or of all their tokens end to end for
        tokenwise kinds and of all their steps for those that mark steps; ``ends`` (N,) are the rows of the
        answers' last. All float32. Nothing
        returned may be a view of ``logits``: the hooks of FSDP must not get one.
        """


class ComparingKind(RewardKind):
    """Base of the kinds that read two answers together and say which is better.

    gap = z_first - z_second, the logit of P(the answer shown first is preferred). To take out what the place
    alone does, both orders are computed where answers are judged: (gap(a, b) - gap(b, a)) / 2.
    """

    gives: ClassVar[frozenset[str]] = frozenset({"gap"})

    orders: Literal["both", "random"] = "both"
    """Training shows each comparison in both orders, or in one that the texts decide at random, which is
    faster and leaves more to the place. Validation while training shows one."""

    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        """The gap of (N, 2) logits, one row per joint sequence, which is one comparison."""
        from holdtrue.reward.model import RewardOutput

        return RewardOutput(gap=logits[:, 0] - logits[:, 1])

    @abstractmethod
    def build(self, source: Source) -> tuple[RewardModel, bool]:
        """The model from a folder, and whether it is untrained."""

    @abstractmethod
    def encoder(self, loaded: Loaded, max_length: int, truncation: Truncation) -> JointEncoder:
        """How comparisons become ids for a model of this kind."""
