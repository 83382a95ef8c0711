"""Kinds of reward models: how a number is made from what the backbone computes.

    logits = head(state)          (N, K), or one row per answer token for kinds that value tokens
    reward = a function of an answer's logits

A kind holds no weights. The head is the linear layer ``score`` of transformers' classifiers.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from holdtrue.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.conversation import Marker


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
