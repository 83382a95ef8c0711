"""A step shared by two processes is the step of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import optimising
from holdtrue.policy import entry
from holdtrue.policy import run as runs
from holdtrue.policy.settings import RLSettings, build
from holdtrue.rundir import RunDir, read_jsonl

CODE = "import sys; from holdtrue.cli.main import run; sys.exit(run())"
REWARD = """
def kindness(prompts, texts, completion_ids):
    return [list(ids).count(6) / len(ids) for ids in completion_ids]
def slow(prompts, texts, completion_ids):
    import time
    time.sleep(0.3)
    return kindness(prompts, texts, completion_ids)
calls = iter(range(100))
def once(prompts, texts, completion_ids):
    shares = kindness(prompts, texts, completion_ids)
    return [None, *shares[1:]] if next(calls) == 3 else shares  # the calibration is call 0
def broken(prompts, texts, completion_ids):
    import os
    if os.environ["RANK"] == "1":  # the other waits for what it has to say
        raise KeyError("no reward")
    return kindness(prompts, texts, completion_ids)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = optimising.write(tmp_path_factory.mktemp("processes"), prompts=14)
    (made / "reward.py").write_text(REWARD, encoding="utf-8")
    return made


def settings(folder: Path, function: str = "kindness", **training: Any) -> RLSettings:
    """PPO with a critic on 3 prompts a step, which two processes cannot halve, and some held-out ones."""
    return optimising.settings(
        folder,
        data={"eval_fraction": 0.3},
        rewards=[{"function": f"{folder / 'reward.py'}:{function}"}],
        algorithm={"kind": "ppo", "entropy_coef": 0.01},
        training={"prompts_per_step": 3, "max_steps": 4, "updates": 2, **training},
    )


def holdtrue(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_draw_judge_and_learn_what_one_does(folder: Path, tmp_path: Path) -> None:
    alone = entry.start(settings(folder), tmp_path / "alone")
    runs.optimise(alone)
    both = entry.start(settings(folder, processes=2), tmp_path / "both")
    process = holdtrue("resume", str(both.path), "--json")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stdout.count('"model"') == 1 and '"explained_variance"' in stdout  # one of them speaks
    assert both.info()["processes"] == 2 and both.info()["status"] == "finished"
    drawn = [
        [row["completion_ids"] for row in read_jsonl(run.path / "rollouts.jsonl")] for run in (alone, both)
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 64 + 4 * 12
    mine, theirs = alone.metrics(), both.metrics()
    assert [row["event"] for row in mine] == [row["event"] for row in theirs]
    for one, other in zip(mine, theirs, strict=True):
        for key in ("reward", "kl", "loss", "grad_norm", "value_loss", "entropy", "length"):
            if one.get(key) is not None:
                assert other[key] == pytest.approx(one[key], abs=1e-3), key  # rounding, in 8 updates
    weights = [load_file(run.model / "model.safetensors") for run in (alone, both)]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-3) for key in weights[0])


def test_two_processes_go_back_together(folder: Path, tmp_path: Path) -> None:
    started = []
    for processes in (1, 2):
        values = settings(folder, "once", processes=processes, save_steps=2, save_total_limit=1).dump()
        values["data"]["eval_fraction"] = 0  # evaluations would be counted as calls
        values["guard"]["on_alarm"], values["seed"] = "rollback", 1
        started.append(entry.start(build(values), tmp_path / str(processes)))
    alone, both = started
    runs.optimise(alone)
    process = holdtrue("resume", str(both.path))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0 and stderr.count("the policy is again that of step 2;") == 1, stderr
    ended = both.info()["ended"]
    assert [row["to"] for row in ended["rollbacks"]] == [2] and ended["steps"] == 5
    drawn = [[row["completion_ids"] for row in read_jsonl(run.path / "rollouts.jsonl")] for run in started]
    assert drawn[0] == drawn[1]


def test_two_processes_stop_together_and_go_on(folder: Path, tmp_path: Path) -> None:
    run = entry.start(settings(folder, "slow", processes=2), tmp_path / "run")
    process = holdtrue("resume", str(run.path))
    deadline = time.monotonic() + 200
    while not run.metrics_file.is_file() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 5
    errors = [line for line in stderr.splitlines() if "error: " in line]
    assert len(errors) == 1 and errors[0].startswith("error: stopped after step "), stderr
    assert errors[0].count("continue with: holdtrue resume") == 1
    assert stderr.count("the loop guard cannot act") == 1, stderr
    assert run.info()["status"] == "interrupted" and len(run.metrics()) < 6
    process = holdtrue("resume", str(run.path))
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert [row["step"] for row in run.metrics() if row["event"] == "train"] == [1, 2, 3, 4]


def test_a_reward_that_fails_in_one_of_two_processes_is_what_the_run_says(
    folder: Path, tmp_path: Path
) -> None:
    run = entry.start(settings(folder, "broken", processes=2), tmp_path / "run")
    process = holdtrue("resume", str(run.path))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 3
    assert "raised KeyError" in stderr.splitlines()[-1] and "Traceback" not in stderr
    assert "raised KeyError" in RunDir(run.path).info()["error"]
