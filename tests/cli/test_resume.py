"""``holdtrue resume``: what it goes on with, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.rundir import RunDir

Run = Callable[..., Any]


@pytest.fixture
def copied(toy_run: Path, tmp_path: Path) -> RunDir:
    return RunDir(shutil.copytree(toy_run, tmp_path / "run"))


def test_a_finished_run_is_measured_and_saved_again_the_same(holdtrue: Run, copied: RunDir) -> None:
    before = copied.info()["model_hash"]
    copied.evaluation_file.unlink()
    done = holdtrue("resume", copied.path, "--json")
    assert done.code == 0 and done.value["model_hash"] == before
    assert copied.evaluation_file.exists()


@pytest.mark.parametrize("what", ["nothing", "model"])
def test_what_is_no_run_ends_with_3(holdtrue: Run, toy_folder: Path, tmp_path: Path, what: str) -> None:
    path = {"nothing": tmp_path / "nothing", "model": toy_folder / "model"}[what]
    done = holdtrue("resume", path, "--json")
    assert done.code == 3 and "is not a run directory" in done.error["message"]


@pytest.mark.parametrize(("content", "code"), [("[1, 2", 3), ("- 1\n", 3), ("training: {max_step: 3}\n", 2)])
def test_settings_that_were_broken_by_hand_are_said_to_be(
    holdtrue: Run, copied: RunDir, content: str, code: int
) -> None:
    copied.settings_file.write_text(content)
    done = holdtrue("resume", copied.path, "--json")
    assert done.code == code and done.error["message"]


def test_a_run_of_another_version_is_to_be_trained_again(holdtrue: Run, copied: RunDir) -> None:
    copied.settings_file.write_text(copied.settings_file.read_text() + "banana: 1\n")
    done = holdtrue("resume", copied.path, "--json")
    assert done.code == 2 and "unknown setting 'banana'" in done.error["message"]
    assert done.error["message"].endswith("another version of holdtrue began the run, train it again")


def test_an_evaluation_without_a_model_hash_is_made_again(holdtrue: Run, copied: RunDir) -> None:
    copied.evaluation_file.write_text('{"accuracy": 0.5}')
    assert holdtrue("resume", copied.path, "--json").code == 0


def test_a_run_in_use_ends_with_2_and_is_left_alone(holdtrue: Run, copied: RunDir) -> None:
    before = copied.info_file.read_bytes()
    with copied.claim():
        done = holdtrue("resume", copied.path, "--json")
        several = holdtrue("train", "--help")
    assert done.code == 2 and "in use by another process" in done.error["message"]
    assert several.code == 0
    assert copied.info_file.read_bytes() == before
    assert holdtrue("resume", copied.path).code == 0


def test_data_that_changed_ends_with_3(
    holdtrue: Run, copied: RunDir, toy_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "train.jsonl"
    lines = (toy_folder / "train.jsonl").read_text().splitlines(keepends=True)
    data.write_text("".join(lines[1:]))
    kept = copied.settings_file.read_text()
    copied.settings_file.write_text(kept.replace(str(toy_folder / "train.jsonl"), str(data)))
    done = holdtrue("resume", copied.path, "--json")
    assert done.code == 3 and "since this run began; start a new run" in done.error["message"]
