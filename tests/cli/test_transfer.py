"""Training goes on from reward models: our own, our own adapters, and those of other tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Run = Callable[..., Any]
ONE_STEP = ("--set", "training.max_steps=1", "--set", "training.learning_rate=1e-9")


def rows(path: Path) -> list[list[float]]:
    return [json.loads(line)["rewards"] for line in path.read_text(encoding="utf-8").splitlines()]


def foreign(folder: Path, model: Path) -> Path:
    """The toy model with a head, as DeepSpeed-Chat names the weights."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    renamed = {
        "rwtransformer." + name.removeprefix("model."): weight
        for name, weight in weights.items()
        if name != "lm_head.weight"
    }
    renamed["v_head.weight"] = torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("start", ["own", "own adapter", "foreign"])
def test_training_begins_with_the_rewards_of_the_model_it_goes_on_from(
    start: str, holdtrue: Run, toy_folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    pairs, judged = toy_folder / "train.jsonl", toy_folder / "eval.jsonl"
    first = toy_run / "model"
    if start == "foreign":
        first = foreign(tmp_path / "foreign", toy_folder / "model")
    elif start == "own adapter":
        lora = ("--set", "model.lora.r=2", "--set", "training.max_steps=3")
        assert (
            holdtrue(
                "train", pairs, "--model", first.parents[1] / "model", "-o", tmp_path / "lora", *lora
            ).code
            == 0
        )
        first = tmp_path / "lora" / "model"
        assert (first / "adapter_config.json").is_file()
    done = holdtrue("train", pairs, "--model", first, "--eval", judged, "-o", tmp_path / "next", *ONE_STEP)
    assert done.code == 0, done.err
    for model, name in ((first, "before"), (tmp_path / "next", "after")):
        scored = holdtrue("score", model, judged, "-o", tmp_path / f"{name}.jsonl")
        assert scored.code == 0, scored.err
    before, after = rows(tmp_path / "before.jsonl"), rows(tmp_path / "after.jsonl")
    assert torch.allclose(torch.tensor(after), torch.tensor(before), atol=1e-4)  # the step was tiny
    assert torch.tensor(before).std() > 0.01
    verified = holdtrue("verify", tmp_path / "next", "--json")
    assert verified.code == 0, verified.out


def test_evaluate_and_verify_take_a_foreign_model(holdtrue: Run, toy_folder: Path, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "foreign", toy_folder / "model")
    done = holdtrue("evaluate", folder, toy_folder / "eval.jsonl", "--json")
    assert done.code == 0 and done.value["count"] == 20
    done = holdtrue("verify", folder, "--json")
    assert done.code == 0, done.out
    details = {check["name"]: check["detail"] for check in done.value["checks"]}
    assert details["head saved"] == "v_head.weight (1, 16) as DeepSpeed-Chat saves it"
