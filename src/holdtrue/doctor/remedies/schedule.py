"""A learning rate that is low, warms up, and falls."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from holdtrue.doctor.remedies import OWN, TrainingRemedy


class Schedule(TrainingRemedy):
    """A lower peak rate with warm-up, falling along a cosine or in steps, so that late steps move little."""

    grade = "C"
    evidence = "less drift late in a run; no measurement on loops is known, and a blind reward stays blind"
    source = "the advice most often given; check K02"
    mends = frozenset({"loops_taught_or_unpunished", "blind_reward"})

    learning_rate: float = Field(1e-6, gt=0)
    """Peak rate; 1e-6 is what RL of whole models is run with, supervised training takes ten times as much."""
    shape: Literal["cosine", "step"] = "cosine"
    """``step`` is known to holdtrue alone."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps that warm up."""

    def engines(self) -> dict[str, dict[str, object]]:
        """holdtrue's own trainers have both shapes; that of policies knows a peak by the model's width."""
        own = {
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.shape,
            "warmup_ratio": self.warmup,
        }
        ours: dict[str, object] = {f"training.{key}": value for key, value in own.items()}
        found = {"holdtrue": ours, OWN: {key: ours[key] for key in ours if not key.endswith("learning_rate")}}
        if self.shape == "cosine":
            optim = "actor_rollout_ref.actor.optim."
            found["trl"] = {
                "learning_rate": self.learning_rate,
                "lr_scheduler_type": "cosine",
                "warmup_steps": self.warmup,
            }
            found["verl"] = {
                optim + "lr": self.learning_rate,
                optim + "lr_scheduler_type": "cosine",
                optim + "lr_warmup_steps_ratio": self.warmup,
            }
        return found
