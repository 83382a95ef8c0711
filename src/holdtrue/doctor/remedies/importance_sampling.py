"""The gap between the engine's probabilities and the trainer's, corrected for.

    w_t = min(p_trainer(x_t) / p_engine(x_t), cap)

multiplies the policy's loss of token t: truncated importance sampling.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from holdtrue.doctor.remedies import Context, TrainingRemedy


class ImportanceSampling(TrainingRemedy):
    """Truncated importance sampling between engine and trainer, by token."""

    grade = "B"
    evidence = (
        "a healthy gap stays at 0.011 a token, a bad one went 0.011 to 0.036 in 30 steps; the correction "
        "is part of "
        "TRL (on by default) and verl; a stale cache must be reset, no weight corrects it"
    )
    source = "vllm-project/vime#64; verl-project/verl PR 2953; huggingface/trl PR 3867"
    mends = frozenset({"engine_differs_from_trainer"})
    harms = "rollouts are drawn with penalties (D02): their bias would pass for the engine's"
    not_in_sft = "supervised training draws no answers"

    cap: float = Field(2.0, gt=1)
    """Largest weight."""

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where penalties bias the probabilities."""
        if "D02" in context.findings:
            return "rollouts are drawn with penalties (D02): take those away, or their bias passes for a gap"
        return super().refuses(context)

    def weights(self, trained: ArrayLike, sampled: ArrayLike) -> NDArray[np.float64]:
        """Weights of tokens from their log-probabilities by the trainer and by the engine."""
        gap = np.asarray(trained, dtype=float) - np.asarray(sampled, dtype=float)
        weights: NDArray[np.float64] = np.exp(np.minimum(gap, np.log(self.cap)))
        return weights

    def engines(self) -> dict[str, dict[str, object]]:
        """By token in both."""
        correction = "algorithm.rollout_correction."
        return {
            "trl": {
                "vllm_importance_sampling_correction": True,
                "vllm_importance_sampling_mode": "token_truncate",
                "vllm_importance_sampling_clip_max": self.cap,
            },
            "verl": {
                "actor_rollout_ref.rollout.calculate_log_probs": True,
                correction + "rollout_is": "token",
                correction + "rollout_is_threshold": self.cap,
            },
        }
