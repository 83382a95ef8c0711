"""How the program that trains spells settings: known to the doctor by TRL's names, advised by its own.

Keys and defaults are those of verl's ``ppo_trainer.yaml`` and OpenRLHF's ``train_ppo_ray``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Engine = Literal["trl", "verl", "openrlhf", "holdtrue"]
ACTOR, ROLLOUT = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout."
_OVERLONG = "reward.reward_kwargs.overlong_buffer_cfg."

KEYS: Mapping[Engine, Mapping[str, str]] = {
    "verl": {
        ACTOR + "optim.lr": "learning_rate",
        ACTOR + "optim.lr_scheduler_type": "lr_scheduler_type",
        ACTOR + "optim.warmup_style": "lr_scheduler_type",
        "optim.lr": "learning_rate",
        ACTOR + "optim.weight_decay": "weight_decay",
        ACTOR + "entropy_coeff": "entropy_coef",
        ACTOR + "grad_clip": "max_grad_norm",
        ACTOR + "ppo_epochs": "num_iterations",
        ACTOR + "clip_ratio": "epsilon",
        ACTOR + "clip_ratio_low": "epsilon",
        ACTOR + "clip_ratio_high": "epsilon_high",
        ACTOR + "loss_agg_mode": "loss_type",
        ACTOR + "fsdp_config.dtype": "dtype",
        "actor_rollout_ref.model.path": "model_name_or_path",
        "actor_rollout_ref.model.lora_rank": "lora_r",
        "actor_rollout_ref.model.target_modules": "lora_target_modules",
        "actor_rollout_ref.model.override_config.attn_implementation": "attn_implementation",
        ROLLOUT + "n": "num_generations",
        ROLLOUT + "enable_prefix_caching": "enable_prefix_caching",
        ROLLOUT + "logprobs_mode": "logprobs_mode",
        ROLLOUT + "temperature": "temperature",
        ROLLOUT + "top_p": "top_p",
        ROLLOUT + "top_k": "top_k",
        ROLLOUT + "repetition_penalty": "repetition_penalty",
        "data.max_prompt_length": "max_prompt_length",
        "data.max_response_length": "max_completion_length",
        "data.train_batch_size": "generation_batch_size",
        "trainer.total_epochs": "num_train_epochs",
        "trainer.total_training_steps": "max_steps",
        _OVERLONG + "enable": "overlong_shaping",
        "reward_model.overlong_buffer.enable": "overlong_shaping",
    },
    "openrlhf": {
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
    },
    "holdtrue": {
        "model.path": "model_name_or_path",
        "model.lora.r": "lora_r",
        "model.lora.target_modules": "lora_target_modules",
        "data.max_length": "max_length",
    },
    "trl": {  # its older names
        "max_seq_length": "max_length",
        "max_new_tokens": "max_completion_length",
        "response_length": "max_completion_length",
        "kl_coef": "beta",
        "torch_dtype": "dtype",
    },
}
"""Engine -> its key -> TRL's name; of two keys with one meaning the first is advised."""
_SECTIONS: Mapping[Engine, tuple[str, ...]] = {
    "verl": ("actor_rollout_ref.", "algorithm.", "trainer.total_"),
    "holdtrue": ("training.",),
}
_TRL_ALONE = frozenset(KEYS["openrlhf"].values()) - {"learning_rate"}
"""OpenRLHF's trainers other than RL's take ``learning_rate`` too."""
LOSS_TYPES = {
    "token-mean": "bnpo",
    "seq-mean-token-mean": "grpo",
    "seq-mean-token-sum": "seq-mean-token-sum",
    "seq-mean-token-sum-norm": "dr_grpo",
}
"""verl's ways to average over tokens, by TRL's names."""
LIMIT = {"trl": 256, "verl": 512, "openrlhf": 1024, "holdtrue": 256}
"""Longest answer in tokens where the settings say none."""


@dataclass(frozen=True)
class Dialect:
    """One program's spelling.

    Attributes:
        engine: the program.
        written: TRL's name -> the key that stands in the settings.
    """

    engine: Engine = "trl"
    written: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, flat: Mapping[str, Any]) -> Dialect:
        """Told by the most keys that only one program has; TRL where there are none."""
        own = {engine: sum(_is_own(engine, key) for key in flat) for engine in KEYS}
        engine = max(own, key=lambda one: own[one])
        return cls(engine if own[engine] else "trl", {trl_name(key): key for key in flat})

    def key(self, name: str) -> str:
        """The key of what TRL calls ``name``: as it stands in the settings, else as the program calls it."""
        if name in self.written:
            return self.written[name]
        if self.engine == "trl":
            return name
        own = (key for key, meaning in KEYS[self.engine].items() if meaning == name)
        return next(own, f"training.{name}" if self.engine == "holdtrue" else name)

    def value(self, name: str, value: Any) -> Any:
        """A value as the program writes it: verl has its own words for ``loss_type``."""
        if self.engine != "verl" or name != "loss_type":
            return value
        return next((own for own, meaning in LOSS_TYPES.items() if meaning == value), value)

    def changes(self, wanted: Mapping[str, Any], limit: int | None = None) -> dict[str, Any]:
        """Settings by TRL's names as the program's own keys and values, where it has no key the nearest.

        verl takes KL through two keys. verl and OpenRLHF cannot mask cut answers; they can give them less
        reward over the last fifth of the ``limit`` (DAPO's share).
        """
        found: dict[str, Any] = {}
        room = limit or LIMIT[self.engine]
        for name, value in wanted.items():
            if self.engine == "verl" and name == "beta":
                found |= {ACTOR + "use_kl_loss": True, ACTOR + "kl_loss_coef": value}
            elif self.engine == "verl" and name == "mask_truncated_completions":
                found |= {
                    "reward.reward_manager.name": "dapo",
                    "reward.reward_kwargs.max_resp_len": room,
                    _OVERLONG + "enable": True,
                    _OVERLONG + "len": room // 5,
                    _OVERLONG + "penalty_factor": 1.0,
                }
            elif self.engine == "openrlhf" and name == "mask_truncated_completions":
                found |= {"overlong_buffer_len": room // 5, "overlong_penalty_factor": 1.0}
            elif self.engine == "openrlhf" and name == "dtype":
                found["bf16"] = value == "bfloat16"
            else:
                found[self.key(name)] = self.value(name, value)
        return found


def trl_name(key: str) -> str:
    """TRL's name of any program's key; the key itself, without holdtrue's section, where nobody has one."""
    names = (keys[key] for keys in KEYS.values() if key in keys)
    return next(names, key.removeprefix("training."))


def _is_own(engine: Engine, key: str) -> bool:
    """Whether only one program has a key; TRL its names that others spell in their own way."""
    if engine == "trl":
        return key in KEYS["trl"] or key in _TRL_ALONE
    return key in KEYS[engine] or key.startswith(_SECTIONS.get(engine, ()))


def said(changes: Mapping[str, Any]) -> str:
    """Settings in words: ``set a to true and b to 0.001``."""
    shown = [
        f"{key} to {str(value).lower() if isinstance(value, bool) else value}"
        for key, value in changes.items()
    ]
    return "set " + " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
