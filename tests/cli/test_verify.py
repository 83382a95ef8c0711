"""``holdtrue verify``: exit code 4 when a model's rewards cannot be trusted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

Run = Callable[..., Any]


def test_the_model_of_a_run_passes_every_check(holdtrue: Run, toy_run: Path) -> None:
    done = holdtrue("verify", toy_run, "--json")
    assert done.code == 0, done.out
    assert done.value["ok"] is True and done.value["model"] == str(toy_run / "model")
    assert "fail" not in {check["status"] for check in done.value["checks"]}
    assert len(done.value["checks"]) >= 8
    text = holdtrue("verify", toy_run)
    assert text.code == 0 and all(check["name"] in text.out for check in done.value["checks"])


def test_an_untrained_head_ends_with_4(holdtrue: Run, toy_run: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(toy_run / "model", tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["score.weight"] = weights["score.weight"] * 0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    done = holdtrue("verify", model, "--json")
    assert done.code == 4 and done.value["ok"] is False
    assert any(check["status"] == "fail" and "head" in check["name"] for check in done.value["checks"])


def test_a_model_without_its_head_ends_with_3_or_4_and_names_it(
    holdtrue: Run, toy_run: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(toy_run / "model", tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    done = holdtrue("verify", model, "--json")
    assert done.code in (3, 4) and "score" in done.out


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty folder"])
def test_what_is_no_model_ends_with_3(holdtrue: Run, tmp_path: Path, toy_folder: Path, what: str) -> None:
    path = {"nothing": tmp_path / "no", "a file": toy_folder / "train.jsonl", "an empty folder": tmp_path}[
        what
    ]
    done = holdtrue("verify", path, "--json")
    assert done.code == 3 and str(path) in done.error["message"]
