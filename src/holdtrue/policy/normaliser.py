"""Rewards on one scale: whitened on samples of the reference policy, so that a KL coefficient means the same
for every reward model and in every round.

    r' = clip((r - mean) / std, -clip, clip)

mean and std are those of the reference samples (Ziegler et al. 2019, arXiv 1909.08593, section 2) and fixed
until the reward model is swapped; a running mean would hide the very rise that is being trained for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdtrue.errors import QualityError

if TYPE_CHECKING:
    from torch import Tensor


class Normaliser:
    """Whitens rewards; fitted anew for every reward model and round."""

    def __init__(self, clip: float | None = None) -> None:
        self.clip = clip
        """Largest size of a whitened reward, in standard deviations of the reference samples."""
        self.mean: float | None = None
        self.std: float | None = None

    def fit(self, rewards: Tensor) -> None:
        """Take mean and std (n - 1) of rewards (N,) of reference samples; those that are not finite are left
        out.

        Raises:
            QualityError: fewer than two finite rewards, or all of them equal.
        """
        finite = rewards[rewards.isfinite()].double()
        seen = f"{len(finite)} of {len(rewards)} rewards of reference samples are finite"
        if len(finite) < 2:
            raise QualityError(f"rewards cannot be whitened: {seen}; at least 2 are needed")
        std = finite.std().item()
        if std <= 1e-6 * max(1.0, finite.abs().max().item()):
            raise QualityError(f"rewards cannot be whitened: {seen} and all are about {finite[0].item():.6g}")
        self.mean, self.std = finite.mean().item(), std

    def __call__(self, rewards: Tensor) -> Tensor:
        """Whitened rewards, same shape; NaN stays NaN.

        Raises:
            ValueError: it was never fitted.
        """
        if self.mean is None or self.std is None:
            raise ValueError("the normaliser is not fitted")
        white = (rewards - self.mean) / self.std
        return white if self.clip is None else white.clamp(-self.clip, self.clip)

    def state_dict(self) -> dict[str, Any]:
        """What fitting found."""
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.mean, self.std = state["mean"], state["std"]
