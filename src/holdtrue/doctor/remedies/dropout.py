"""Dropout, for a small supervised data set."""

from __future__ import annotations

from pydantic import Field

from holdtrue.doctor.remedies import TrainingRemedy


class Dropout(TrainingRemedy):
    """Dropout in the adapter of a supervised training over few rows for several epochs."""

    grade = "C"
    evidence = (
        "less learning by heart; no measurement on loops is known, and today's models were trained without"
    )
    source = "the advice most often given; TRL's disable_dropout says what it does to log-probabilities"
    mends = frozenset({"loops_taught_or_unpunished"})
    harms = "in RL: the same tokens get other log-probabilities each time, so that ratios and KL are noise"
    not_in_rl = (
        "with dropout the same tokens get other log-probabilities each time: ratios of old and new, and the "
        "KL, are noise"
    )

    rate: float = Field(0.05, gt=0, lt=1)
    """Share of the adapter's inputs that is set to 0."""

    def engines(self) -> dict[str, dict[str, object]]:
        """Of the LoRA adapter; whole models have none to turn on."""
        return {
            "trl": {"lora_dropout": self.rate},
            "holdtrue": {"model.lora.dropout": self.rate, "training.disable_dropout": False},
        }
