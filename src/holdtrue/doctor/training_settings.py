"""Settings of a training run of any program, flat, by the names TRL gives them.

    learning_rate               holdtrue training.learning_rate; verl actor_rollout_ref.actor.optim.lr;
                                OpenRLHF actor_learning_rate
    lr_scheduler_type           verl ...optim.lr_scheduler_type, warmup_style; OpenRLHF lr_scheduler
    beta (weight of the KL)     verl actor.kl_loss_coef with use_kl_loss, algorithm.kl_ctrl.kl_coef with
                                use_kl_in_reward; OpenRLHF init_kl_coef
    entropy_coef                verl actor.entropy_coeff; OpenRLHF entropy_loss_coef
    num_generations             verl rollout.n; OpenRLHF n_samples_per_prompt
    max_completion_length       verl data.max_response_length; OpenRLHF generate_max_len
    loss_type (token mean: bnpo)  verl actor.loss_agg_mode
    num_train_epochs            verl trainer.total_epochs; OpenRLHF num_episodes

The whole table is :data:`holdtrue.doctor.dialect.KEYS`. Keys nobody knows are kept, nested ones with dots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from holdtrue.doctor.dialect import ACTOR, LOSS_TYPES, Dialect, trl_name
from holdtrue.errors import DataError, SettingsError

OF_RL = frozenset(
    {
        "beta",
        "num_generations",
        "max_completion_length",
        "reward_funcs",
        "reward_weights",
        "num_iterations",
        "entropy_coef",
        "mask_truncated_completions",
        "advantage_estimator",
        "algorithm.adv_estimator",
        "scale_rewards",
    }
)
"""A setting by which reinforcement learning is known."""
EARLY_STOP = ("early_stopping_patience", "early_stopping", "early_stop")
"""Settings that end a run before its time."""
VERL_KL = (
    (ACTOR + "use_kl_loss", ACTOR + "kl_loss_coef", 0.001),
    ("algorithm.use_kl_in_reward", "algorithm.kl_ctrl.kl_coef", 0.001),
)
"""verl's two ways to take KL: switch, weight, and the weight's default."""
OPENED = (ACTOR + "fsdp_config", "actor_rollout_ref.model.override_config", "reward.reward_kwargs")
"""Sections whose names end as those of keyword arguments, which are kept whole."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class Settings(dict[str, Any]):
    """Settings of a training run by TRL's names, how the program that trains spells them, and as they were
    written, flat."""

    dialect = Dialect()
    written: Mapping[str, Any] = MappingProxyType({})


def read_settings(path: str | Path) -> Settings:
    """Settings of a YAML or JSON file, flat, by TRL's names.

    Raises:
        DataError: the file cannot be read. SettingsError: it is no mapping of settings.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"settings file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        loaded = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        what = " ".join(str(error).split())[:200]
        raise SettingsError(f"{path} is neither YAML nor JSON: {what or type(error).__name__}") from error
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path} holds a {type(loaded).__name__}, expected a mapping of settings")
    return by_trl_names(loaded)


def is_of_rl(settings: Mapping[str, Any] | None) -> bool:
    """Whether settings, by TRL's names, are of reinforcement learning: answers are sampled."""
    return bool(OF_RL & set(settings or {}))


def by_trl_names(values: Mapping[Any, Any]) -> Settings:
    """Flat settings by TRL's names; of two keys that mean the same the last wins that is not null."""
    flat = _flat(values)
    found = Settings()
    found.dialect, found.written = Dialect.of(flat), flat
    for key, value in flat.items():
        name = trl_name(key)
        if value is None and name in found:
            continue
        found[name] = LOSS_TYPES.get(str(value), value) if name == "loss_type" else _number(value)
    of_rl = any(key.startswith(("actor_rollout_ref.", "algorithm.")) for key in flat)
    if found.dialect.engine == "verl" and of_rl:  # not its SFT
        found["beta"] = _verl_kl(flat)
        found.setdefault("loss_type", "bnpo")  # verl's default is token-mean
    return found


def _verl_kl(flat: Mapping[str, Any]) -> float:
    """verl's KL counts only where it is switched on: in the loss, in the reward, or both."""
    on = [_number(flat.get(weight, default)) for switch, weight, default in VERL_KL if flat.get(switch)]
    return sum(float(one) for one in on if isinstance(one, int | float))


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + str(key)
        whole = name.endswith(("kwargs", "config")) and name not in OPENED
        if isinstance(value, Mapping) and value and not whole:
            found |= _flat(value, name + ".")
        else:
            found[name] = value
    return found


def _number(value: Any) -> Any:
    """``"1e-6"`` as a number: YAML 1.1 takes it for a string."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
