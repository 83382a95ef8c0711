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

The whole table is ``NAMES``. Keys nobody knows are kept, nested ones with dots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from holdtrue.errors import DataError, SettingsError

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout."
NAMES: Mapping[str, str] = {
    _ACTOR + "optim.lr": "learning_rate",
    _ACTOR + "optim.lr_scheduler_type": "lr_scheduler_type",
    _ACTOR + "optim.warmup_style": "lr_scheduler_type",
    _ACTOR + "optim.weight_decay": "weight_decay",
    _ACTOR + "entropy_coeff": "entropy_coef",
    _ACTOR + "grad_clip": "max_grad_norm",
    _ACTOR + "ppo_epochs": "num_iterations",
    _ACTOR + "clip_ratio": "epsilon",
    _ACTOR + "clip_ratio_low": "epsilon",
    _ACTOR + "clip_ratio_high": "epsilon_high",
    _ACTOR + "loss_agg_mode": "loss_type",
    "actor_rollout_ref.model.path": "model_name_or_path",
    "actor_rollout_ref.model.lora_rank": "lora_r",
    "actor_rollout_ref.model.target_modules": "lora_target_modules",
    _ROLLOUT + "n": "num_generations",
    _ROLLOUT + "enable_prefix_caching": "enable_prefix_caching",
    _ROLLOUT + "temperature": "temperature",
    _ROLLOUT + "top_p": "top_p",
    _ROLLOUT + "top_k": "top_k",
    _ROLLOUT + "repetition_penalty": "repetition_penalty",
    "data.max_prompt_length": "max_prompt_length",
    "data.max_response_length": "max_completion_length",
    "data.train_batch_size": "generation_batch_size",
    "trainer.total_epochs": "num_train_epochs",
    "trainer.total_training_steps": "max_steps",
    "reward_model.overlong_buffer.enable": "overlong_shaping",
    # OpenRLHF
    "actor_learning_rate": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "init_kl_coef": "beta",
    "entropy_loss_coef": "entropy_coef",
    "n_samples_per_prompt": "num_generations",
    "generate_max_len": "max_completion_length",
    "prompt_max_len": "max_prompt_length",
    "num_episodes": "num_train_epochs",
    "max_epochs": "num_iterations",
    "eps_clip": "epsilon",
    "lora_rank": "lora_r",
    "pretrain": "model_name_or_path",
    "overlong_buffer_len": "overlong_shaping",
    # holdtrue
    "model.path": "model_name_or_path",
    "model.lora.r": "lora_r",
    "model.lora.target_modules": "lora_target_modules",
    "data.max_length": "max_length",
    # TRL's older names
    "max_seq_length": "max_length",
    "max_new_tokens": "max_completion_length",
    "response_length": "max_completion_length",
    "kl_coef": "beta",
    "torch_dtype": "dtype",
}
"""Name elsewhere -> TRL's name; holdtrue's ``training.*`` are TRL's names already."""
LOSS_TYPES = {
    "token-mean": "bnpo",
    "seq-mean-token-mean": "grpo",
    "seq-mean-token-sum": "seq-mean-token-sum",
    "seq-mean-token-sum-norm": "dr_grpo",
}
"""verl's ways to average over tokens, by TRL's names."""
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
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def read_settings(path: str | Path) -> dict[str, Any]:
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


def by_trl_names(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Flat settings by TRL's names; the last of two keys that mean the same wins."""
    flat = _flat(values)
    found: dict[str, Any] = {}
    for key, value in flat.items():
        name = NAMES.get(key, key.removeprefix("training."))
        found[name] = LOSS_TYPES.get(str(value), value) if name == "loss_type" else _number(value)
    if any(key.startswith(("actor_rollout_ref.", "algorithm.")) for key in flat):
        found["beta"] = _verl_kl(flat)
        found.setdefault("loss_type", "bnpo")  # verl's default is token-mean
    return found


def _verl_kl(flat: Mapping[str, Any]) -> float:
    """verl's KL counts only where it is switched on: in the loss, in the reward, or both."""
    weights = (
        (_ACTOR + "use_kl_loss", _ACTOR + "kl_loss_coef", 0.001),
        ("algorithm.use_kl_in_reward", "algorithm.kl_ctrl.kl_coef", 0.001),
    )
    on = [_number(flat.get(weight, default)) for switch, weight, default in weights if flat.get(switch)]
    return sum(float(one) for one in on if isinstance(one, int | float))


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + str(key)
        if isinstance(value, Mapping) and value and not name.endswith(("kwargs", "config")):
            found |= _flat(value, name + ".")
        else:
            found[name] = value
    return found


def _number(value: Any) -> Any:
    """``"1e-6"`` as a number: YAML 1.1 takes it for a string."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
