"""Training that ends when the texts get worse, whatever the reward says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from holdtrue.doctor.remedies import OWN, TrainingRemedy
from holdtrue.errors import DataError


class EarlyStop(TrainingRemedy):
    """Training ends when a text metric of held-out prompts is above its limit ``patience`` times in a row.

    The reward is no such metric: it stayed fine while the texts were garbage (DeepEyes#24).
    """

    grade = "C"
    evidence = (
        "a released model reproduced its benchmark score with garbled output: only text metrics would stop it"
    )
    source = "Visual-Agent/DeepEyes#24, #46"
    mends = frozenset({"loops_taught_or_unpunished", "blind_reward", "engine_differs_from_trainer"})

    limits: Mapping[str, float] = {"degenerate": 0.02, "truncated": 0.1}
    """Metric -> the highest value that is fine; rates of ``doctor rollouts`` on held-out prompts."""
    patience: int = Field(2, ge=1)
    """Evaluations in a row; one may be chance."""

    def stops_at(self, history: Sequence[Mapping[str, float]]) -> int | None:
        """Index of the first evaluation after which training should have ended; None: go on.

        Args:
            history: metrics of each evaluation, in order.

        Raises:
            DataError: a metric is missing.
        """
        row = dict.fromkeys(self.limits, 0)
        for at, metrics in enumerate(history):
            for name, limit in self.limits.items():
                if name not in metrics:
                    seen = ", ".join(sorted(metrics)) or "none"
                    raise DataError(f"evaluation {at} has no metric {name!r}; seen: {seen}")
                row[name] = row[name] + 1 if metrics[name] > limit else 0
                if row[name] >= self.patience:
                    return at
        return None

    def engines(self) -> dict[str, dict[str, object]]:
        """TRL stops by one metric, logged by a callback of yours, with transformers' "
        "EarlyStoppingCallback."""
        first = next(iter(self.limits))
        return {
            "trl": {
                "eval_strategy": "steps",
                "metric_for_best_model": f"eval_{first}",
                "greater_is_better": False,
                "load_best_model_at_end": True,
                "callbacks": [f"transformers.EarlyStoppingCallback(early_stopping_patience={self.patience})"],
            },
            OWN: {"guard.on_alarm": "stop"},
        }
