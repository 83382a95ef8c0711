"""Settings of rounds: those of a reward model, those of policy optimisation, and what stands between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from holdtrue import kinds
from holdtrue.policy.settings import RLSettings
from holdtrue.refresh.methods import Refresh
from holdtrue.settings import Section, Settings, build_section


class AnswerSettings(Section):
    """Fresh answers of a round's policy: what a refresh may look at."""

    prompts: int = Field(64, gt=0)
    """Prompts that are answered, the same in every round."""
    group: int = Field(5, ge=2)
    """Answers to each (arXiv 2405.00438: 5)."""


class LabelSettings(Section):
    """Who says which of two answers is better, and how often they are asked."""

    function: str | None = None
    """``file.py:name`` of ``f(prompts, firsts, seconds)``: for each pair of answers the probability that the
    first is better (1, 0, 0.5 for a tie), or None where nobody knows. Each pair is asked for once."""
    budget: int = Field(0, ge=0)
    """Labels a refresh may buy in a round."""
    accuracy: int = Field(0, ge=0)
    """Labels a round spends on measuring its reward models, each on two further answers to one prompt."""


class StopSettings(Section):
    """When the rounds end early."""

    action: Literal["warn", "stop"] = "warn"
    """What is done once the 95 % interval of the refreshed model's accuracy on fresh answers lies below
    ``stop.accuracy``, or the held-out model's reward fell in a round in which the reward rose."""
    accuracy: float = Field(0.55, ge=0, le=1)
    """Needs ``labels.accuracy``. A coin reaches 0.5."""
    held_out: str | None = None
    """A reward model that the policy is never optimised against."""


class RoundsSettings(Section):
    """Everything rounds are made of."""

    task: Literal["rounds"] = "rounds"
    """Tells these settings from those of other runs."""
    reward: Settings = Settings()
    """The reward model, as for ``holdtrue train``; refreshes train on its pairs with its settings."""
    rl: RLSettings
    """Each round's policy optimisation, as for ``holdtrue rl``. ``policy.path`` is the first policy, already
    fine-tuned, and the reference of all rounds; ``rewards`` are added to the reward model's."""
    refresh: kinds.chosen("holdtrue.refresh.methods", "retrain") = Field(  # type: ignore[valid-type]
        default="retrain", validate_default=True
    )
    """How the reward model is brought up to date: ``none``, or a method by name, or ``{kind: name, ...}``."""
    rounds: int = Field(3, gt=0)
    """How often."""
    restart: bool = False
    """Begin each round's policy at the first one again (arXiv 2505.18126) instead of going on."""
    answers: AnswerSettings = AnswerSettings()
    labels: LabelSettings = LabelSettings()
    stop: StopSettings = StopSettings()
    seed: int = Field(42, ge=0)
    """From it follow the seeds of every round; that of the first reward model is ``reward.seed``."""

    @model_validator(mode="after")
    def _fits_together(self) -> RoundsSettings:
        if not self.reward.data.train or not self.reward.model.path:
            raise ValueError(
                "reward needs pairs and a model to start from: reward.data.train, reward.model.path"
            )
        if not self.rl.data.prompts:
            raise ValueError("rl needs prompts: rl.data.prompts")
        lora = self.rl.policy.lora
        if lora is not None and not lora.merge and self.rounds > 1 and not self.restart:
            raise ValueError("the next round trains fresh adapters: set rl.policy.lora.merge=true")
        if self.rl.policy.reference is not None:
            raise ValueError("the reference of all rounds is rl.policy.path; leave out rl.policy.reference")
        if self.rl.decoding.top_k or self.rl.decoding.top_p < 1:
            raise ValueError(
                "drift is measured by log-probabilities, and tokens outside the reference's cut have none: "
                "leave out rl.decoding.top_k and top_p"
            )
        if self.stop.action == "stop" and not self.labels.accuracy and self.stop.held_out is None:
            raise ValueError("stop.action stop needs labels.accuracy or stop.held_out to tell when")
        if self.reward.training.processes > 1:
            raise ValueError("rounds run in one process: reward.training.processes must be 1")
        return self

    @property
    def method(self) -> Refresh:
        """How the reward model is brought up to date."""
        found: Refresh = self.refresh
        return found

    def dump(self) -> dict[str, Any]:
        """Plain values, as written to ``settings.yaml``."""
        return self.model_dump(mode="json")


def build(values: Mapping[str, Any]) -> RoundsSettings:
    """Typed settings from plain values.

    Raises:
        SettingsError: unknown key (names the nearest), wrong type or out of range (says what was seen).
    """
    return build_section(values, RoundsSettings)
