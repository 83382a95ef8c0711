"""Algorithms of policy optimisation: what a row or token was worth, and the loss that follows from it.

They differ in the baseline, in what the probability ratio is taken of (a token or an answer), in how tokens
are averaged and in where the KL stands. Both methods are pure functions of one dataclass; a trainer asks
``needs`` and knows no algorithm.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from holdtrue.kinds import Kind
from holdtrue.policy import kl
from holdtrue.policy.inputs import LossInputs, LossOutputs, Mean, Scored
from holdtrue.policy.kl import Estimator
from holdtrue.policy.objectives import Average, surrogate

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

FAMILY = "holdtrue.policy.algorithms"


class Algorithm(Kind):
    """Base of the algorithms."""

    clip_low: float = Field(0.2, gt=0, le=1)
    """The probability ratio is clipped below 1 - clip_low (arXiv 1707.06347)."""
    clip_high: float = Field(0.2, gt=0)
    """The probability ratio is clipped above 1 + clip_high."""
    kl_coef: float = Field(0.0, ge=0)
    """β, weight of the KL to the reference policy, in reward per nat; 0 needs no reference."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where the KL stands. In the reward it is that of the whole answer; in the loss it is averaged as the
    rest."""
    kl_estimator: Estimator = "k1"
    """Of the KL of a token: k1 = x, k2 = x²/2, k3 = e^-x - 1 + x with x = log π/π_ref. k1 only in the
    reward."""
    kl_target: float | None = Field(None, gt=0)
    """KL of an answer in nats that β is moved to hold (arXiv 1909.08593 took 6); null leaves β as it is."""
    kl_horizon: int = Field(10_000, gt=0)
    """In how many answers β moves by up to a fifth."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the entropy that the loss is lowered by."""

    @model_validator(mode="after")
    def _kl_does_something(self) -> Self:
        if self.kl_coef and self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "k1 in the loss has no gradient on average; take kl_estimator k2 or k3, or kl_in reward"
            )
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError("kl_target moves kl_coef by a factor, so kl_coef must be above 0")
        return self

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of the inputs it reads: reference_logprobs, entropy, values."""
        wanted = {"reference_logprobs": self.kl_coef, "entropy": self.entropy_coef}
        return frozenset(name for name, coef in wanted.items() if coef)

    def controller(self) -> kl.Controller:
        """Holds the KL coefficient, which changes where there is a target."""
        return kl.Controller(self.kl_coef, self.kl_target, self.kl_horizon)

    @abstractmethod
    def advantages(self, scored: Scored) -> Tensor:
        """(N,) or (N, T): how much better each row or token was than expected, 0 for rows that are not
        kept."""

    def returns(self, scored: Scored) -> Tensor | None:
        """(N, T) what a critic is to predict; None without a critic."""
        return None

    @abstractmethod
    def loss(self, inputs: LossInputs) -> LossOutputs:
        """The loss to be made small, and the means to log."""

    def penalties(self, scored: Scored) -> Tensor:
        """(N, T) β·KL of each token where the KL is in the reward, else 0."""
        if self.kl_in == "loss" or not self.kl_coef:
            return scored.mask * 0.0
        logprobs = given(scored.old_logprobs, "old_logprobs")
        log_ratio = logprobs - given(scored.reference_logprobs, "reference_logprobs")
        # where nothing else is to be learned, Adam would make full steps of rounding
        known = scored.mask & (log_ratio.abs() > kl.ROUNDING)
        return scored.kl_coef * kl.estimate(log_ratio.where(known, 0.0), self.kl_estimator)

    def penalised(self, scored: Scored) -> Tensor:
        """(N,) rewards less β·KL of the whole answer where the KL is in the reward."""
        return scored.rewards - self.penalties(scored).sum(1)

    def clipped(self, inputs: LossInputs, log_ratio: Tensor, average: Average) -> LossOutputs:
        """The surrogate with KL and entropy, all averaged alike.

        Args:
            log_ratio: (N, T) of tokens or (N, 1) of answers.
            average: of :mod:`holdtrue.policy.objectives`.

        Its metrics: ``policy_loss`` (averaged as the loss), and over tokens ``ratio`` ρ, ``clip_fraction``
        (tokens whose gradient clipping has cut), ``approx_kl`` = ρ - 1 - log ρ (nats from the policy that
        sampled), and ``kl`` and ``entropy`` where they are known.
        """
        mask, (weights, divisor) = inputs.mask, average
        per_row = inputs.advantages.ndim == 1
        advantages = inputs.advantages[:, None] if per_row else inputs.advantages.where(mask, 0.0)
        terms, ratio, cut = surrogate(log_ratio, advantages, self.clip_low, self.clip_high)
        found = {"ratio": ratio, "clip_fraction": cut, "approx_kl": kl.estimate(-inputs.log_ratio, "k3")}
        total = policy_loss = (weights * terms).sum()
        kl_in_loss = self.kl_in == "loss" and self.kl_coef > 0
        if kl_in_loss or inputs.reference_logprobs is not None:
            reference = given(inputs.reference_logprobs, "reference_logprobs")
            drift = (inputs.logprobs - reference).where(mask, 0.0)
            found["kl"] = kl.estimate(drift, "k3")
            if kl_in_loss:
                total = total + inputs.kl_coef * (weights * kl.estimate(drift, self.kl_estimator)).sum()
        if self.entropy_coef or inputs.entropy is not None:
            found["entropy"] = entropy = given(inputs.entropy, "entropy").where(mask, 0.0)
            total = total - self.entropy_coef * (weights * entropy).sum()
        metrics = {name: over_tokens(value, mask) for name, value in found.items()}
        return LossOutputs(
            Mean(total, divisor), {"policy_loss": Mean(policy_loss.detach(), divisor)} | metrics
        )


def over_tokens(values: Tensor, mask: Tensor) -> Mean:
    """Mean over the tokens that count of values (N, T) or (N, 1), without gradient."""
    return Mean((values.detach() * mask).sum(), mask.sum())


def given(value: Tensor | None, name: str) -> Tensor:
    """An input that the algorithm needs.

    Raises:
        ValueError: it is missing.
    """
    if value is None:
        raise ValueError(f"the algorithm needs {name}, which the trainer did not give")
    return value
