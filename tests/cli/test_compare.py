"""``holdtrue compare``: models on the same pairs, named or their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.rundir import RunDir, read_json

Run = Callable[..., Any]


@pytest.fixture
def copied(toy_run: Path, tmp_path: Path) -> RunDir:
    return RunDir(shutil.copytree(toy_run, tmp_path / "run"))


def test_runs_are_compared_on_the_validation_pairs_they_share(
    holdtrue: Run, toy_run: Path, copied: RunDir
) -> None:
    done = holdtrue("compare", toy_run, copied.path, "--json")
    assert done.code == 0 and done.value["data"] == "validation"
    validated = read_json(copied.evaluation_file)["results"][0]["accuracy"]
    assert [row["accuracy"] for row in done.value["models"].values()] == [validated] * 2
    (pair,) = done.value["pairs"]
    assert (pair["difference"], pair["agreement"]) == (0.0, 1.0)


def test_a_run_and_a_model_folder_are_compared_on_named_data(
    holdtrue: Run, toy_run: Path, copied: RunDir, toy_folder: Path
) -> None:
    data = toy_folder / "train.jsonl"
    done = holdtrue("compare", toy_run, copied.model, "--data", data, "--json")
    assert done.value["data"] == [str(data)] and done.value["count"] == 60
    text = holdtrue("compare", toy_run, copied.model, "--data", data).out
    assert "longer answer" in text and f"{toy_run} − {copied.model}" in text and "agreement" in text


def test_other_validation_pairs_are_an_error_that_says_what_to_do(
    holdtrue: Run, toy_run: Path, copied: RunDir, toy_folder: Path
) -> None:
    settings = copied.settings()
    settings["data"]["eval"] = [str(toy_folder / "train.jsonl")]
    copied.settings_file.write_text(json.dumps(settings))
    copied.update_info(data=copied.info()["data"] | {"eval": copied.info()["data"]["train"]})
    failed = holdtrue("compare", toy_run, copied.path, "--json")
    assert failed.code == 2
    assert "different validation pairs" in failed.error["message"] and "--data" in failed.error["message"]


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        (lambda run: [run.path], "two models or more"),
        (lambda run: [run.path, run.path], "given twice"),
        (lambda run: [run.path, run.model], "not a run with validation pairs"),
        (lambda run: [run.path, run.model, "--format", "hh"], "no --data"),
    ],
)
def test_a_wrong_choice_of_models_is_an_error(
    holdtrue: Run, copied: RunDir, pick: Callable[[RunDir], list[Any]], message: str
) -> None:
    done = holdtrue("compare", *pick(copied), "--json")
    assert done.code == 2 and message in done.error["message"]


def test_changed_validation_data_is_refused(
    holdtrue: Run, toy_run: Path, copied: RunDir, toy_folder: Path, tmp_path: Path
) -> None:
    settings, info = copied.settings(), copied.info()
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text((toy_folder / "eval.jsonl").read_text().splitlines()[0] + "\n")
    settings["data"]["eval"] = [str(held_out)]
    copied.settings_file.write_text(json.dumps(settings))
    info["data"]["eval"]["files"][0]["path"] = str(held_out)
    copied.update_info(data=info["data"])
    done = holdtrue("compare", toy_run, copied.path, "--json")
    assert done.code == 3 and f"{held_out} changed" in done.error["message"]
