"""KL to the reference policy: estimates from sampled tokens, and the controller of its coefficient.

With x = log π(token) - log π_ref(token) of a token sampled from π (Schulman, Approximating KL divergence,
2020):

    k1 = x                 unbiased, and often negative
    k2 = x² / 2            biased, and small near the reference
    k3 = e^-x - 1 + x      unbiased and never negative

As a term of the loss their gradients are another matter (arXiv 2506.09477): in expectation that of k1 is 0,
that of k2 is the gradient of KL(π || π_ref), and that of k3 the gradient of KL(π_ref || π). So k1 belongs in
the reward, where it is unbiased, and is refused in the loss, where it would do nothing.
"""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Literal

from holdtrue.errors import QualityError

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
ROUNDING = 1e-5
"""Log-probabilities of drawing and of a full forward agree to this: a ratio below it is rounding."""
LARGEST_EXPONENT = 20.0
"""Exponents are cut here: e^20 is 5e8, beyond any use, and e^89 is infinite in float32."""


def estimate(log_ratio: Tensor, estimator: Estimator) -> Tensor:
    """KL estimate of each token in nats, from log π - log π_ref; any shape."""
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return (-log_ratio).clamp(max=LARGEST_EXPONENT).expm1() + log_ratio


def of_answers(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """(N,) k1 estimate of each answer's KL in nats: Σ over its tokens. Its mean is what a controller
    holds."""
    return (logprobs - reference_logprobs).where(mask, 0.0).sum(1)


class Controller:
    """The KL coefficient β, moved so that the KL of an answer stays near a target.

        error = clip(KL / target - 1, -0.2, 0.2)
        β    ←  β · (1 + error · answers / horizon)

    Ziegler et al. 2019 (arXiv 1909.08593, section 2.2), in the form of their code, where the horizon is
    counted in answers, so that the batch size does not change how fast β moves. Without a target β stays as
    it is.
    """

    def __init__(self, coef: float, target: float | None = None, horizon: int = 10_000) -> None:
        self.coef = coef
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, answers: int) -> None:
        """Move β by the mean KL of so many answers, in nats per answer.

        Raises:
            QualityError: the KL is not a number.
        """
        if isnan(kl):
            raise QualityError(
                "the KL to the reference policy is nan; the policy or its log-probs are broken"
            )
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coef *= 1 + error * answers / self.horizon

    def state_dict(self) -> dict[str, float]:
        """What changes while it runs."""
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self.coef = state["coef"]
