"""Advice in the names of the program that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_families import chatml_folder
from holdtrue.doctor.checks import examine
from holdtrue.doctor.dialect import Dialect, said
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.training_settings import by_trl_names

VERL: dict[str, Any] = {
    "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
    "actor_rollout_ref": {
        "actor": {"optim": {"lr": 5e-5, "warmup_style": "constant"}, "loss_agg_mode": "token-mean"},
        "rollout": {
            "enable_prefix_caching": True,
            "repetition_penalty": 1.1,
            "logprobs_mode": "raw_logprobs",
            "temperature": 0.8,
        },
    },
    "data": {"max_response_length": 5000},
    "trainer": {"total_epochs": 32},
}
OPENRLHF: dict[str, Any] = {
    "init_kl_coef": 0,
    "actor_learning_rate": 5e-5,
    "lr_scheduler": "constant",
    "generate_max_len": 1000,
    "num_episodes": 32,
    "enable_prefix_caching": True,
}


def findings(folder: Path, values: dict[str, Any]) -> dict[str, Finding]:
    diagnosis = examine(Subject(folder, settings=by_trl_names(values)))
    return {one.id: one for one in diagnosis.findings if one.id[0] in "KD" and one.severity != "ok"}


ACTOR, ROLLOUT = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout."
OVERLONG = "reward.reward_kwargs.overlong_buffer_cfg."


@pytest.mark.parametrize(
    ("id", "changes"),
    [
        ("K01", {ACTOR + "use_kl_loss": True, ACTOR + "kl_loss_coef": 0.001}),
        # the key of the file, an older one, and a tenth of the 1e-5 at which it warns
        ("K02", {ACTOR + "optim.lr": 1e-6, ACTOR + "optim.warmup_style": "cosine"}),
        ("K03", {"trainer.total_epochs": 5}),
        (
            "K05",
            {
                "reward.reward_manager.name": "dapo",
                "reward.reward_kwargs.max_resp_len": 5000,
                OVERLONG + "enable": True,
                OVERLONG + "len": 1000,
                OVERLONG + "penalty_factor": 1.0,
            },
        ),
        ("D02", {ROLLOUT + "repetition_penalty": 1.0}),
        ("D06", {ROLLOUT + "enable_prefix_caching": False}),
        ("D07", {ROLLOUT + "logprobs_mode": "processed_logprobs"}),
    ],
)
def test_verl_is_advised_in_its_own_keys_and_the_advice_is_accepted(
    tmp_path: Path, id: str, changes: dict[str, Any]
):
    folder = chatml_folder(tmp_path)
    found = findings(folder, VERL)[id]
    assert found.values["fix"]["settings"] == changes
    assert all(key in found.fix for key in changes)
    assert id not in findings(folder, VERL | changes)


def test_nothing_is_said_to_a_user_of_verl_in_the_names_of_trl(tmp_path: Path):
    found = findings(chatml_folder(tmp_path), VERL)
    for name in (
        "mask_truncated_completions",
        "num_train_epochs",
        "loss_type",
        "max_completion_length",
        "beta ",
    ):
        assert not [id for id, one in found.items() if name in one.fix + one.evidence], name
    assert "actor_rollout_ref.actor.loss_agg_mode token-mean" in found["K05"].evidence


@pytest.mark.parametrize(
    ("id", "changes"),
    [
        ("K01", {"init_kl_coef": 0.001}),
        ("K02", {"actor_learning_rate": 1e-6, "lr_scheduler": "cosine"}),
        ("K03", {"num_episodes": 5}),
        ("K05", {"overlong_buffer_len": 200, "overlong_penalty_factor": 1.0}),
        ("D06", {"enable_prefix_caching": False}),
    ],
)
def test_openrlhf_is_advised_in_its_own_keys_and_the_advice_is_accepted(
    tmp_path: Path, id: str, changes: dict[str, Any]
):
    folder = chatml_folder(tmp_path)
    assert findings(folder, OPENRLHF)[id].values["fix"]["settings"] == changes
    assert id not in findings(folder, OPENRLHF | changes)


def test_sections_of_verl_that_end_in_config_are_opened():
    nested = {
        "reward": {"reward_kwargs": {"overlong_buffer_cfg": {"enable": True}}},
        "algorithm": {"gamma": 1},
    }
    assert by_trl_names(nested)["overlong_shaping"] is True


@pytest.mark.parametrize(
    ("keys", "engine", "key"),
    [
        ({}, "trl", "learning_rate"),
        ({"learning_rate": 1}, "trl", "learning_rate"),
        ({"training.max_steps": 1}, "holdtrue", "training.learning_rate"),
        ({"algorithm.adv_estimator": "grpo"}, "verl", "actor_rollout_ref.actor.optim.lr"),
        ({"n_samples_per_prompt": 8}, "openrlhf", "actor_learning_rate"),
        # the most keys of one program decide: one of another is a slip
        ({"num_generations": 8, "beta": 0, "lr_scheduler": "cosine"}, "trl", "learning_rate"),
        ({"n_samples_per_prompt": 8, "init_kl_coef": 0, "beta": 0}, "openrlhf", "actor_learning_rate"),
        ({"learning_rate": 1, "lr_scheduler": "cosine"}, "openrlhf", "learning_rate"),
    ],
)
def test_the_program_is_told_by_keys_that_only_it_has(keys: dict[str, Any], engine: str, key: str):
    dialect = Dialect.of(keys)
    assert (dialect.engine, dialect.key("learning_rate")) == (engine, key)


def test_precision_is_a_switch_of_openrlhf():
    assert Dialect("openrlhf").changes({"dtype": "bfloat16"}) == {"bf16": True}


def test_settings_in_words():
    assert said({"a": True}) == "set a to true"
    assert said({"a": 1, "b": "x", "c": False}) == "set a to 1, b to x and c to false"
