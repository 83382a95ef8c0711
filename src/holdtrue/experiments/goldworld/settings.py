"""Settings of the gold world, and the arms that have a name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from holdtrue.errors import SettingsError, unknown
from holdtrue.refresh.methods import named
from holdtrue.settings import Section, build_section

ARMS: dict[str, dict[str, Any]] = {
    "frozen": {"kind": "none"},
    "retrain": {"kind": "retrain"},
    "metarm": {"kind": "metarm"},
    "ensemble-min": {"kind": "ensemble", "combine": "min"},
    "fresh_labels": {"kind": "fresh_labels"},
    "metarm-flipped": {"kind": "metarm", "sign": -1},
    "metarm-second": {"kind": "metarm", "order": "second"},
    "metarm-head": {"kind": "metarm", "scope": "head"},
    "metarm-paper": {"kind": "metarm", "preset": "paper"},
    "joint": {"kind": "joint"},
    "ensemble-mean": {"kind": "ensemble", "combine": "mean"},
    "ensemble-doubt": {"kind": "ensemble", "combine": "mean_minus_std"},
    "weight_average": {"kind": "weight_average"},
    "importance": {"kind": "importance"},
    "self_train": {"kind": "self_train"},
    "adversarial": {"kind": "adversarial"},
    "fresh-uncertainty": {"kind": "fresh_labels", "choose": "uncertainty"},
    "fresh-disagreement": {"kind": "fresh_labels", "choose": "disagreement"},
    "fresh-d_optimal": {"kind": "fresh_labels", "choose": "d_optimal"},
    "fresh-shift": {"kind": "fresh_labels", "choose": "shift"},
}
"""Name of an arm -> the refresh it is."""
REMEDIES: dict[str, dict[str, Any]] = {
    "blind": {},
    "seeing": {"reward": "seeing"},
    "veto": {"reward": "veto"},
    "kl": {"rl": {"algorithm": {"kl_coef": 0.3}}},
    "penalty": {"rl": {"decoding": {"control": "end"}, "guard": {"on_hit": "penalise", "penalty": -3.0}}},
    "exclude": {"rl": {"decoding": {"control": "end"}, "guard": {"on_hit": "exclude"}}},
    "ban": {"rl": {"decoding": {"control": "ban"}}},
    "cosine": {"rl": {"training": {"lr_scheduler_type": "cosine"}}},
    "early_stop": {"rl": {"guard": {"on_alarm": "stop"}}},
    "rebalance": {"data": {"kind": "rebalance"}},
    "recovery": {"data": {"kind": "recovery"}},
    "distil": {"sft": {"loss": {"kind": "distillation"}}},
    "rebalance+veto": {"data": {"kind": "rebalance"}, "reward": "veto"},
}
"""Arms of a world with a habit -> what is done: to data, fine-tuning, reward or optimisation."""
_NAME = re.compile(r"[A-Za-z0-9_+-]+")
MAIN = ("frozen", "retrain", "metarm", "ensemble-min", "fresh_labels")


class GoldworldSettings(Section):
    """What is fixed before a seed is run, and what will be looked at."""

    task: Literal["goldworld"] = "goldworld"
    """Tells these settings from those of other runs."""
    arms: list[str] = Field(default=[*MAIN], min_length=1)
    """Arms by name; an unknown one is answered with those there are."""
    own_arms: dict[str, dict[str, Any]] = Field(default={})
    """Further arms: a name, and the refresh as in the settings of rounds."""
    control: str = "retrain"
    """The arm all others are set beside, seed by seed."""
    seeds: int = Field(16, gt=0)
    """Seeds 0, 1, ...: each has a world, a policy, pairs and draws of its own."""
    primary_kl: float = Field(6.0, gt=0)
    """The primary outcome is the gold at this KL, in nats, less that of the control."""
    kls: list[float] = Field(default=[2.0, 4.0, 6.0, 8.0])
    """Where gold is read off."""
    pairs: int = Field(2000, gt=0)
    """Noisy pairs the proxy is trained on."""
    flip: float = Field(0.2, ge=0, lt=0.5)
    """Share of labels that are wrong, most of them of close pairs."""
    labels: int = Field(250, ge=0)
    """Labels a refresh may buy in a round, with the same noise."""
    pair_families: list[str] = Field(default=[])
    """Product families the pairs are about. By default all."""
    prompt_families: list[str] = Field(default=[])
    """Product families the policy is optimised and judged on. By default all; others than those of the pairs
    make the case out of distribution."""
    habit: float = Field(0.0, ge=0, lt=1)
    """Above 0 another experiment: the first policy is fine-tuned on conversations of which this share ends in
    a run of ``<|im_start|>``, the reward cannot see it, and arms are remedies. Its control is ``blind``, its
    primary outcome the share of answers with control tokens."""
    policy_steps: int = Field(300, gt=0)
    """Steps in which the first policy learns to write as the world's clerks do."""
    rounds: dict[str, Any] = Field(default={})
    """Settings of the rounds that differ from the experiment's own."""

    @model_validator(mode="before")
    @classmethod
    def _arms_of_a_habit(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("habit"):
            return {"arms": list(REMEDIES), "control": "blind", **given}
        return given

    @model_validator(mode="after")
    def _arms_are_known(self) -> GoldworldSettings:
        named_here = REMEDIES if self.habit else ARMS
        for arm in self.own_arms:
            if arm in named_here or arm in ("world", "trunk", "proxy", "sick") or not _NAME.fullmatch(arm):
                raise ValueError(
                    f"own arm {arm!r} needs another name: letters, digits, - and _, not taken yet"
                )
        if doubled := [arm for arm, count in Counter(self.arms).items() if count > 1]:
            raise ValueError(f"arm {doubled[0]} is given twice")
        known = {**named_here, **self.own_arms}
        for arm in [*self.arms, self.control]:
            if arm not in known:
                raise ValueError(unknown("arm", arm, known))
        try:
            for arm in () if self.habit else self.arms:
                named(known[arm])
        except SettingsError as error:
            raise ValueError(f"arm {arm}: {error}") from error
        if self.control not in self.arms:
            raise ValueError(f"the control {self.control} is not among the arms {', '.join(self.arms)}")
        if self.primary_kl not in self.kls:
            raise ValueError(f"primary_kl {self.primary_kl:g} is not among kls")
        return self

    def made_of(self, arm: str) -> dict[str, Any]:
        """The refresh of an arm, or what the remedy does in a world with a habit."""
        return {**ARMS, **REMEDIES, **self.own_arms}[arm]

    @property
    def primary(self) -> str:
        """Name of the number that arms are judged by."""
        return "control_rate" if self.habit else f"gold_at_kl_{self.primary_kl:g}"

    def dump(self) -> dict[str, Any]:
        """Plain values, as written to ``settings.yaml``."""
        return self.model_dump(mode="json")


def build(values: Mapping[str, Any]) -> GoldworldSettings:
    """Typed settings from plain values.

    Raises:
        SettingsError: unknown key (names the nearest), wrong type or out of range (says what was seen).
    """
    return build_section(values, GoldworldSettings)


def split_arms(text: str) -> Sequence[str]:
    """Arms of a list with commas."""
    return [arm.strip() for arm in text.split(",") if arm.strip()]
