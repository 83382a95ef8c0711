from __future__ import annotations

import json

import pytest

from holdtrue.doctor.training_settings import by_trl_names, read_settings
from holdtrue.errors import DataError, SettingsError


def test_trl_settings_stay_as_they_are_and_scientific_numbers_are_numbers(tmp_path):
    file = tmp_path / "grpo.yaml"
    file.write_text(
        "learning_rate: 1e-6\nbeta: 0.0\nreward_funcs: [accuracy]\nmodel_init_kwargs: {dtype: float16}\n"
    )
    assert read_settings(file) == {
        "learning_rate": 1e-6,
        "beta": 0.0,
        "reward_funcs": ["accuracy"],
        "model_init_kwargs": {"dtype": "float16"},
    }


def test_settings_of_holdtrue_lose_their_section():
    values = {
        "model": {"path": "m", "lora": {"r": 16}},
        "training": {"learning_rate": 2e-5},
        "data": {"max_length": 9},
    }
    assert by_trl_names(values) == {
        "model_name_or_path": "m",
        "lora_r": 16,
        "learning_rate": 2e-5,
        "max_length": 9,
    }


def test_the_names_of_verl_are_known_nested_and_with_dots():
    nested = {
        "actor_rollout_ref": {
            "actor": {
                "optim": {"lr": "1e-6", "lr_scheduler_type": "constant"},
                "use_kl_loss": False,
                "kl_loss_coef": 0.5,
                "entropy_coeff": 0,
                "loss_agg_mode": "token-mean",
            },
            "rollout": {"n": 16, "temperature": 1.0},
        },
        "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False, "kl_ctrl": {"kl_coef": 0.3}},
        "data": {"max_response_length": 20480},
        "trainer": {"total_epochs": 32, "nnodes": 2},
    }
    found = by_trl_names(nested)
    assert found == {
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "actor_rollout_ref.actor.use_kl_loss": False,
        "actor_rollout_ref.actor.kl_loss_coef": 0.5,
        "entropy_coef": 0,
        "loss_type": "bnpo",
        "num_generations": 16,
        "temperature": 1.0,
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": False,
        "algorithm.kl_ctrl.kl_coef": 0.3,
        "max_completion_length": 20480,
        "num_train_epochs": 32,
        "trainer.nnodes": 2,
        "beta": 0.0,  # both are switched off
    }
    dotted = {"actor_rollout_ref.actor.optim.lr": 2e-6, "actor_rollout_ref.actor.use_kl_loss": True}
    assert by_trl_names(dotted)["learning_rate"] == 2e-6
    assert by_trl_names(dotted)["beta"] == 0.001  # verl's default weight
    both = {**nested["algorithm"], "use_kl_in_reward": True}
    assert by_trl_names({**nested, "algorithm": both})["beta"] == 0.3


def test_the_names_of_openrlhf_are_known():
    values = {
        "actor_learning_rate": 1e-6,
        "init_kl_coef": 0.01,
        "generate_max_len": 1024,
        "n_samples_per_prompt": 8,
    }
    assert by_trl_names(values) == {
        "learning_rate": 1e-6,
        "beta": 0.01,
        "max_completion_length": 1024,
        "num_generations": 8,
    }


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", '{"a": ', "just words"])
def test_what_is_no_mapping_is_an_error_of_one_line(tmp_path, text):
    for name in ("a.yaml", "a.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(SettingsError) as caught:
            read_settings(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_missing_file_and_one_that_is_not_text_are_errors(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path / "a.json"):
        with pytest.raises(DataError, match="cannot be read"):
            read_settings(path)


def test_json_settings_are_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"init_kl_coef": 0}))
    assert read_settings(tmp_path / "a.json") == {"beta": 0}
