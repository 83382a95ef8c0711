from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_families import finding
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.training_settings import by_trl_names

VERL: dict[str, Any] = {
    "actor_rollout_ref": {
        "actor": {
            "optim": {"lr": 1e-6, "lr_scheduler_type": "constant", "warmup_style": None},
            "use_kl_loss": False,
            "kl_loss_coef": 0.001,
            "kl_loss_type": "low_var_kl",
            "clip_ratio": 0.2,
            "clip_ratio_low": 0.1,
            "clip_ratio_high": 0.28,
            "clip_ratio_c": 3.0,
            "ppo_mini_batch_size": 256,
        },
        "rollout": {"n": 8, "top_p": 1.0, "top_k": -1},
    },
    "algorithm": {"use_kl_in_reward": False, "kl_ctrl": {"kl_coef": 0.001}},
    "data": {"train_batch_size": 1024, "val_batch_size": None, "max_response_length": 512},
}
"""As verl writes its defaults."""


def judge(folder: Path, settings: dict[str, Any]) -> Finding:
    return finding(Subject(folder, settings=by_trl_names(settings)), "K06")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize(
    ("settings", "near"),
    [
        ({"learning_rat": 1e-3, "beta": 0.1}, {"learning_rat": "learning_rate"}),
        ({"model": {"path": "m"}, "training": {"learning_rat": 1}}, {"learning_rat": "learning_rate"}),
        ({"pretrain": "m", "init_kl_coeff": 0.1}, {"init_kl_coeff": "init_kl_coef"}),
        ({"learning_rate": 1e-6, "my_own_name": 1}, {}),
        # beside the right name, which it is to override
        ({"learning_rate": 1e-6, "lerning_rate": 3e-6}, {"lerning_rate": "learning_rate"}),
        ({"max_prompt_length": 512, "min_prompt_length": 1}, {}),
        (
            {"num_generations": 8, "max_completion_length": 512, "beta": 0, "lr_scheduler": "cosine"},
            {"lr_scheduler": "lr_scheduler_type"},
        ),
    ],
)
def test_a_setting_with_a_slip_in_its_name_is_told(tmp_path: Path, settings: Any, near: dict[str, str]):
    found = judge(tmp_path, settings)
    assert (found.severity, found.values.get("near", {})) == ("warn" if near else "ok", near)


@pytest.mark.parametrize(
    ("slip", "right"),
    [
        ("actor_rollout_ref.actor.kl_loss_coeff", "actor_rollout_ref.actor.kl_loss_coef"),
        ("actor_rollout_ref.actor.entropy_coef", "actor_rollout_ref.actor.entropy_coeff"),
        ("actor_rollout_ref.actor.use_klloss", "actor_rollout_ref.actor.use_kl_loss"),
        ("actor_rollout_ref.actr.optim.lr", "actor_rollout_ref.actor.optim.lr"),
        ("actor_rollout_ref.rollout.temprature", "actor_rollout_ref.rollout.temperature"),
        ("data.max_respone_length", "data.max_response_length"),
    ],
)
def test_slips_in_verls_keys_are_told_in_its_keys(tmp_path: Path, slip: str, right: str):
    settings = {key: value for key, value in flat(VERL).items() if key != right}
    found = judge(tmp_path, {**settings, slip: 0.5})
    assert (found.severity, found.values["near"], found.fix) == ("warn", {slip: right}, f"write {right}")


def test_verls_defaults_as_it_writes_them_are_well(tmp_path: Path):
    assert judge(tmp_path, VERL).severity == "ok"


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        (
            {"actor_rollout_ref.actor.kl_loss_coef": 0.05},
            "kl_loss_coef 0.05 without actor_rollout_ref.actor.use_kl",
        ),
        ({"algorithm.kl_ctrl.kl_coef": 0.05}, "kl_coef 0.05 without algorithm.use_kl_in_reward"),
        ({"actor_rollout_ref.actor.optim.warmup_style": "cosine"}, "lr_scheduler_type constant and "),
        (
            {"actor_rollout_ref.actor.use_kl_loss": True, "algorithm.use_kl_in_reward": True},
            "the KL counts twice",
        ),
    ],
)
def test_keys_of_verl_that_contradict_each_other_are_told(tmp_path: Path, changes: Any, seen: str):
    found = judge(tmp_path, flat(VERL) | changes)
    assert found.severity == "warn" and seen in found.evidence and len(found.values["contradictions"]) == 1


def test_two_names_of_trl_for_one_thing_contradict_each_other_only_with_two_values(tmp_path: Path):
    assert (
        "max_seq_length 512 and max_length 1024"
        in judge(tmp_path, {"max_seq_length": 512, "max_length": 1024}).evidence
    )
    assert judge(tmp_path, {"max_seq_length": 512, "max_length": 512}).severity == "ok"


def test_a_key_of_verl_that_is_null_takes_nothing_from_another():
    assert by_trl_names(VERL)["lr_scheduler_type"] == "constant"
