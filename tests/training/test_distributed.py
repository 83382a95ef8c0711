"""Several processes compute what one does, stop together and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from transformers import AutoModelForSequenceClassification

from holdtrue import job
from holdtrue.errors import Interrupted, ResourceError, SettingsError
from holdtrue.rundir import RunDir
from holdtrue.settings import build
from holdtrue.training import distributed

TRAINING = {
    "bf16": False,
    "max_steps": 6,
    "eval_steps": 2,
    "train_batch_size": 16,
    "max_tokens_per_pass": 200,
}
Start = Callable[..., RunDir]


@pytest.fixture
def start(toy_folder: Path, tmp_path: Path) -> Start:
    def started(name: str, model: dict[str, Any] | None = None, **training: Any) -> RunDir:
        values = {
            "data": {"train": [str(toy_folder / "train.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]},
            "model": {"path": str(toy_folder / "model"), **(model or {})},
            "training": TRAINING | training,
        }
        return job.start(build(values), tmp_path / name)

    return started


def curve(run: RunDir, steps: int = 1000) -> list[tuple[str, int, float, float]]:
    return [(r["event"], r["step"], r["loss"], r["accuracy"]) for r in run.metrics() if r["step"] <= steps]


def assert_same_curve(one: RunDir, other: RunDir, steps: int = 1000) -> None:
    first, second = curve(one, steps), curve(other, steps)
    assert [row[:2] for row in first] == [row[:2] for row in second] and first
    for column in (2, 3):
        assert [row[column] for row in first] == pytest.approx([row[column] for row in second], abs=1e-5)


def holdtrue(*arguments: Any) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    return subprocess.Popen(
        [sys.executable, "-m", "holdtrue", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for_rows(run: RunDir, child: subprocess.Popen[str], rows: int) -> None:
    deadline = time.monotonic() + 60
    while len(run.metrics()) < rows:
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.02)


def test_two_sharded_processes_have_the_curve_of_one_and_save_a_plain_model(
    start: Start, tmp_path: Path
) -> None:
    alone = start("alone")
    job.train(alone)
    sharded = start("sharded", parallel="fsdp", processes=2)
    child = holdtrue("resume", sharded.path, "--json")
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert json.loads(out)["evaluation"]["count"] == 20
    assert "UserWarning" not in err and "Traceback" not in err
    assert sharded.info()["processes"] == 2
    assert_same_curve(sharded, alone)
    one, other = (AutoModelForSequenceClassification.from_pretrained(run.model) for run in (alone, sharded))
    for (name, expected), found in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=name)


def test_ctrl_c_stops_two_processes_which_had_the_curve_of_one_and_can_go_on(start: Start) -> None:
    long = start("long", max_steps=5000, processes=2, lr_scheduler_type="constant", save_steps=5000)
    child = holdtrue("resume", long.path, "--json")
    wait_for_rows(long, child, 4)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 5, err
    error = json.loads(out)["error"]
    assert error["exit_code"] == 5 and "holdtrue resume" in error["message"]
    assert "Traceback" not in err
    info = long.info()
    assert (info["status"], info["processes"]) == ("interrupted", 2)
    assert not (long.path / ".stop").exists()
    stopped = long.metrics()[-1]["step"]
    alone = start("alone", max_steps=5000, lr_scheduler_type="constant", save_steps=5000)
    with pytest.raises(Interrupted):
        job.train(alone, stop=lambda: len(curve(alone)) >= len(curve(long)))
    assert_same_curve(long, alone, steps=stopped)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_run_can_be_resumed(start: Start) -> None:
    run = start("run", max_steps=60, processes=2, save_steps=1)
    child = holdtrue("resume", run.path, "--json")
    wait_for_rows(run, child, 2)
    pids = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdecimal() and b"RANK=1\0" in _environment(path) and _belongs(path, run)
    ]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 6, err
    assert "another process of this run ended" in json.loads(out)["error"]["message"]
    assert "Traceback" not in err
    again = holdtrue("resume", run.path)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    alone = start("alone", max_steps=60)
    job.train(alone)
    assert_same_curve(run, alone)


def _environment(process: Path) -> bytes:
    try:
        return b"\0" + (process / "environ").read_bytes()
    except OSError:
        return b""


def _belongs(process: Path, run: RunDir) -> bool:
    return str(run.path).encode() in (process / "cmdline").read_bytes()


@pytest.mark.slow
def test_torchrun_by_hand_prints_one_value_and_refuses_a_directory_of_before(
    toy_folder: Path, tmp_path: Path
) -> None:
    line = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "holdtrue", "train"]
    line += [str(toy_folder / "train.jsonl"), "--model", str(toy_folder / "model"), "--json"]
    line += ["--output", str(tmp_path / "run"), "--set", "training.max_steps=3"]
    first, second = (
        subprocess.run([sys.executable, *line], capture_output=True, text=True, timeout=120, check=False)
        for _ in range(2)
    )
    assert first.returncode == 0 and json.loads(first.stdout)["steps"] == 3
    assert second.returncode == 1 and json.loads(second.stdout)["error"]["exit_code"] == 2
    assert RunDir(tmp_path / "run").info()["status"] == "finished"


@pytest.mark.slow
def test_user_mistakes_in_several_processes_keep_their_exit_code(toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage.jsonl").write_text('{"a": 1}\n')
    child = holdtrue(
        "train",
        tmp_path / "garbage.jsonl",
        "--model",
        toy_folder / "model",
        "--output",
        tmp_path / "run",
        "--processes",
        2,
        "--json",
    )
    out, err = child.communicate(timeout=60)
    assert child.returncode == 3, err
    assert "layout not recognised" in json.loads(out)["error"]["message"]
    assert "Traceback" not in err and "ChildFailedError" not in err
    assert RunDir(tmp_path / "run").info()["status"] == "failed"


@pytest.mark.parametrize("model", [{}, {"lora": {"r": 4}, "dtype": "bfloat16"}], ids=["whole", "adapters"])
def test_one_sharded_process_stops_resumes_and_equals_one_that_is_not_sharded(
    start: Start, model: dict[str, Any]
) -> None:
    alone = start("alone", model)
    job.train(alone)
    sharded = start("sharded", model, parallel="fsdp")
    with pytest.raises(Interrupted):
        job.train(sharded, stop=lambda: len(curve(sharded)) >= 2)
    job.train(sharded)
    tolerance = 1e-5 if not model else 2e-3  # frozen weights in bfloat16
    one, other = ([row[2] for row in curve(run)] for run in (alone, sharded))
    assert one == pytest.approx(other, abs=tolerance) and len(one) == 9


def test_another_number_of_processes_than_asked_for_is_refused() -> None:
    with (
        pytest.raises(SettingsError, match=r"training\.processes is 3 but 1 are running"),
        distributed.join(3, "data"),
    ):
        pass


def test_a_process_alone_needs_no_siblings() -> None:
    with distributed.join(None, "data") as world:
        assert (world.rank, world.size, world.main, world.sharded) == (0, 1, True, False)
        assert world.total([1.5, 2]) == [1.5, 2]
        world.wait()
    assert not torch.distributed.is_initialized()


def test_gradients_are_summed_in_buckets_of_bounded_size_and_one_type() -> None:
    parameters = [
        torch.nn.Parameter(torch.zeros(n, dtype=dtype))
        for n, dtype in ((3, torch.float32), (4, torch.float32), (9, torch.float32), (1, torch.float64))
    ]
    sizes = [[p.numel() for p in bucket] for bucket in distributed._buckets(parameters, elements=8)]
    assert sizes == [[3, 4], [9], [1]]


def _sum_of(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        everywhere, first, nowhere = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
        everywhere.grad = torch.tensor([1.0, 10.0]) * (rank + 1)
        first.grad = None if rank else torch.tensor([3.0, 4.0])
        distributed.World(rank, 2).sum_gradients([everywhere, nowhere, first])
        torch.save([everywhere.grad, first.grad, nowhere.grad], folder / f"sum-{rank}")
    finally:
        dist.destroy_process_group()


def test_a_parameter_without_a_gradient_in_any_process_has_none_afterwards(tmp_path: Path) -> None:
    mp.spawn(_sum_of, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in (0, 1):
        everywhere, first, nowhere = torch.load(tmp_path / f"sum-{rank}")
        assert everywhere.tolist() == [3, 30] and first.tolist() == [3, 4] and nowhere is None


def test_a_broken_connection_is_said_to_be_a_lost_process() -> None:
    told = r"another process of this run ended.*reset by peer"
    with pytest.raises(ResourceError, match=told), distributed._sibling_errors():
        raise RuntimeError("Connection reset by peer\nmore")
