"""What advantages and losses are functions of, and what a loss gives.

Shapes: N rows of a step, those of a prompt's group together; T tokens of an answer. Everything per token is
read only where ``mask`` is true, so padding may hold anything, also NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """A whole step's rollouts and what they were worth: what advantages are computed from.

    Attributes:
        rewards: (N,) as they count: whitened, shaped and clipped. Anything, also NaN, where ``keep`` is
        false. mask: (N, T) bool, true at tokens that the policy wrote, its end token among them.
        keep: (N,) bool. A row that is not kept leaves every mean and has advantage 0.
        group: G, answers per prompt.
        kl_coef: β, the coefficient of the KL in nats, as it stands now.
        old_logprobs: (N, T) of the policy that sampled, in nats; read where the KL is in the reward.
        reference_logprobs: (N, T) of the reference policy; likewise.
        old_values: (N, T) the critic's value before each token is written.
    """

    rewards: Tensor
    mask: Tensor
    keep: Tensor
    group: int
    kl_coef: float = 0.0
    old_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    old_values: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """(N, T) bool: tokens of rows that are kept. It is the ``mask`` of the loss."""
        return self.mask & self.keep[:, None]


@dataclass(frozen=True)
class LossInputs:
    """A micro-batch under the policy as it is now.

    Attributes:
        logprobs: (N, T) of the policy, with gradient, in nats.
        old_logprobs: (N, T) of the policy that sampled.
        mask: (N, T) bool, tokens that count. A row without any counts nowhere, as if it were not there.
        advantages: (N,) or (N, T).
        max_new_tokens: the longest answer the sampler may give; what Dr. GRPO divides by.
        kl_coef: β as it stands now.
        reference_logprobs: (N, T) of the reference policy.
        values: (N, T) of the critic, with gradient.
        old_values: (N, T) of the critic when the answers were sampled.
        returns: (N, T) what the critic is to predict.
        entropy: (N, T) of the policy's next-token distribution, with gradient, in nats.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    mask: Tensor
    advantages: Tensor
    max_new_tokens: int
    kl_coef: float = 0.0
    reference_logprobs: Tensor | None = None
    values: Tensor | None = None
    old_values: Tensor | None = None
    returns: Tensor | None = None
    entropy: Tensor | None = None

    @property
    def log_ratio(self) -> Tensor:
        """(N, T) log π/π_old, 0 outside the mask."""
        return (self.logprobs - self.old_logprobs).where(self.mask, 0.0)


@dataclass(frozen=True)
class Mean:
    """A mean that is not divided yet, so that those of micro-batches and processes add up to that of all."""

    total: Tensor
    """() Σ weight·x."""
    weight: Tensor
    """() Σ weight."""

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Tensor:
        """() Σ weight·x / Σ weight, 0 where there is no weight."""
        return self.total / self.weight.where(self.weight > 0, 1.0)


@dataclass(frozen=True)
class LossOutputs:
    """The loss of a micro-batch, and what to log of it.

    The gradient of a step is Σ ∇ loss.total over its micro-batches and processes, divided once by
    Σ loss.weight: no way to cut a step into micro-batches changes it.
    """

    loss: Mean
    metrics: Mapping[str, Mean]
    """Means over the tokens that count, without gradient."""
