"""A run that was interrupted, however, ends as one that was not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kill_resume
import toy
from holdtrue import job
from holdtrue.errors import DataError, Interrupted, SettingsError
from holdtrue.rundir import RunDir
from holdtrue.settings import build
from holdtrue.training import checkpoint

TRAINING = {"num_train_epochs": 3, "save_steps": 1, "eval_steps": 3, "save_total_limit": 3}
Start = Callable[..., RunDir]


@pytest.fixture
def start(toy_folder: Path, tmp_path: Path) -> Start:
    """A new run on a copy of the toy data; keywords are settings of its training."""

    def started(name: str = "run", model: dict[str, Any] | None = None, **training: Any) -> RunDir:
        for file in ("train.jsonl", "eval.jsonl"):
            shutil.copyfile(toy_folder / file, tmp_path / file)
        values = {
            "data": {"train": [str(tmp_path / "train.jsonl")], "eval": [str(tmp_path / "eval.jsonl")]},
            "model": {"path": str(toy_folder / "model"), **(model or {})},
            "training": {**TRAINING, **training},
        }
        return job.start(build(values), tmp_path / name)

    return started


def stop_after(run: RunDir, *steps: int) -> None:
    """Train, stopping after each of these steps and going on in what is like a new process."""
    for step in steps:
        seen: list[int] = []
        with pytest.raises(Interrupted, match=f"stopped after step {step} of"):
            job.train(
                run,
                tell=lambda event, row, seen=seen: (
                    seen.append(row.get("step", 0)) if event == "metrics" else None
                ),
                stop=lambda seen=seen, step=step: (
                    max(seen, default=0) >= step - 1
                    or (
                        not seen
                        and checkpoint.newest(run) is not None
                        and checkpoint.newest(run)[0] >= step - 1
                    )
                ),
            )


def finish(run: RunDir) -> dict[str, Any]:
    job.train(run)
    return kill_resume.outcome(run.path)


@pytest.fixture
def in_peace(start: Start) -> Callable[..., dict[str, Any]]:
    return lambda **values: finish(start("peace", **values))


@pytest.mark.parametrize("steps", [(1,), (5,), (2, 3, 9)])
def test_a_run_stopped_and_resumed_equals_one_left_in_peace_bit_for_bit(
    start: Start, in_peace: Callable[..., dict[str, Any]], steps: tuple[int, ...]
) -> None:
    run = start()
    stop_after(run, *steps)
    info = run.info()
    assert (info["status"], info["exit_code"]) == ("interrupted", 5) and "stopped" in info["error"]
    peace = in_peace()
    assert finish(run) == peace
    assert len({row["step"] for row in peace["metrics"]}) == 12
    assert run.info()["error"] is None


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({"lora": {"r": 4, "dropout": 0.3}}, {}),
        ({}, {"gradient_checkpointing": True, "max_tokens_per_pass": 100}),
        ({}, {"early_stopping_patience": 1, "learning_rate": 0.3, "eval_steps": 2, "save_total_limit": 1}),
    ],
    ids=["adapters with dropout", "recomputed in many passes", "early stopping"],
)
def test_other_ways_to_train_resume_bit_for_bit_too(
    start: Start, in_peace: Callable[..., dict[str, Any]], model: dict[str, Any], training: dict[str, Any]
) -> None:
    run = start(model=model, **training)
    stop_after(run, 1, 3)
    if "lora" not in model:
        assert finish(run) == in_peace(model=model, **training)
        return
    peace = start("peace", model, **training)
    for each in (run, peace):
        job.train(each)
    files = [each.model / "adapter_model.safetensors" for each in (run, peace)]
    assert files[0].read_bytes() == files[1].read_bytes()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_corrupted_newest_checkpoint_is_walked_past(
    start: Start, in_peace: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    run = start()
    stop_after(run, 5)
    damage(checkpoint.folder_of(run, 5) / "model.safetensors")
    assert checkpoint.newest(run)[0] == 4
    outcome = finish(run)
    assert "passed over" in caplog.text
    assert outcome == in_peace()


def test_with_every_checkpoint_lost_the_run_begins_anew(
    start: Start, in_peace: Callable[..., dict[str, Any]]
) -> None:
    run = start()
    stop_after(run, 4)
    for path in run.checkpoints.iterdir():
        damage(path / "optimizer.safetensors")
    assert finish(run) == in_peace()


def test_a_metrics_file_with_later_and_half_written_rows_is_wound_back(
    start: Start, in_peace: Callable[..., dict[str, Any]]
) -> None:
    run = start()
    stop_after(run, 4)
    with open(run.metrics_file, "a") as file:
        file.write('{"event": "train", "step": 5, "loss": 9.9}\n{"event": "tr')
    assert finish(run) == in_peace()


def test_resuming_a_finished_run_measures_and_saves_the_same_again(start: Start) -> None:
    run = start()
    before = finish(run)
    started = run.info()["started"]
    (run.model / "model.safetensors").unlink()
    assert finish(run) == before
    assert run.info()["started"] == started


@pytest.mark.parametrize("change", ["a row more", "another file", "a file less"])
def test_changed_data_is_refused(start: Start, tmp_path: Path, toy_folder: Path, change: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    toy.write_pairs(data / "a.jsonl", 20)
    toy.write_pairs(data / "b.jsonl", 20, seed=1)
    values = {"data": {"train": [str(data)]}, "model": {"path": str(toy_folder / "model")}}
    run = job.start(build(values), tmp_path / "run")
    stop_after(run, 1)
    if change == "a row more":
        with open(data / "a.jsonl", "a") as file:
            file.write(json.dumps(toy.pairs(1, seed=9)[0]) + "\n")
    elif change == "another file":
        toy.write_pairs(data / "c.jsonl", 1)
    else:
        (data / "b.jsonl").unlink()
    with pytest.raises(DataError, match=r"[abc]\.jsonl (changed|came|went) since this run began"):
        job.train(run)
    assert run.info()["status"] == "failed" and run.info()["exit_code"] == 3


def test_missing_data_is_said_and_resume_goes_on_when_it_is_back(
    start: Start, in_peace: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run = start()
    stop_after(run, 2)
    (tmp_path / "train.jsonl").rename(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="does not exist"):
        job.train(run)
    (tmp_path / "gone.jsonl").rename(tmp_path / "train.jsonl")
    assert finish(run) == in_peace()


def test_a_run_in_use_is_left_alone(start: Start) -> None:
    run = start()
    before = run.info_file.read_bytes()
    with run.claim(), pytest.raises(SettingsError, match="in use by another process"):
        job.train(RunDir(run.path))
    assert run.info_file.read_bytes() == before
    job.train(run)


def test_the_claim_of_a_killed_process_is_gone_with_it(start: Start) -> None:
    run = start()
    code = (
        "import os, sys; from holdtrue.rundir import RunDir\n"
        "with RunDir(sys.argv[1]).claim(): print('claimed', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"claimed\n"
        with pytest.raises(SettingsError, match="in use"), run.claim():
            pass
        holder.kill()
    left = run.path / f".run.json.{holder.pid}.tmp"
    own = run.path / f".run.json.{os.getpid()}.tmp"
    left.touch()
    own.touch()
    with run.claim():
        assert own.exists() and not left.exists()


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, kill_resume.__file__, "--kills", "5", "--seed", str(os.getpid())],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 5 and found["runs"] == found["finished"] == found["equal"]
    assert not found["resumes that failed"]


def test_checkpoints_a_killed_process_had_no_time_to_delete_are_deleted(
    start: Start, in_peace: Callable[..., dict[str, Any]]
) -> None:
    run = start()
    outcome = finish(run)
    assert outcome == in_peace()
    kept = {path.name for path in run.checkpoints.iterdir()}
    last = checkpoint.folder_of(run, 12)
    for step in (3, 4, 13):  # not whole as their manifests are of another step
        shutil.copytree(last, checkpoint.folder_of(run, step), dirs_exist_ok=True)
    (run.checkpoints / ".tmp-step-00000009-999999999").mkdir()
    assert finish(run) == outcome
    assert {path.name for path in run.checkpoints.iterdir()} == kept
