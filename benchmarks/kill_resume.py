"""Kill a training run at random moments, resume it, and compare what comes out with a run left in peace.

    python benchmarks/kill_resume.py --kills 200 --seed 0

Each process is the real command (``holdtrue train``, then ``holdtrue resume``), forked from a server that
has imported torch, so that one costs a second. It is ended by SIGKILL: every other time after a time drawn
at random, else in the middle of writing (a moment after a temporary file or folder has appeared in the
run). A checkpoint is saved after every step. What was killed is resumed until it finishes; then weights,
order, metrics without times, evaluation and every checkpoint must equal those of the run left in peace.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import toy

TIMES = {"seconds", "tokens_per_second"}


def command(folder: Path, run: Path) -> list[str]:
    """The command line that begins a run, or goes on with it once it has settings."""
    if (run / "settings.yaml").exists():
        return ["resume", str(run)]
    shutil.rmtree(run, ignore_errors=True)
    values = ["training.save_steps=1", "training.eval_steps=3", "training.num_train_epochs=3"]
    values += ["training.train_batch_size=8", "data.max_answers_per_tree=4"]
    arguments = ["train", str(folder / "train.jsonl"), "--eval", str(folder / "eval.jsonl")]
    arguments += ["--model", str(folder / "model"), "--output", str(run)]
    return arguments + [part for value in values for part in ("--set", value)]


def start(arguments: list[str], log: Path) -> int:
    """The process id of a child that runs a command line."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from holdtrue.cli.main import run

        code = run(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def writes(run: Path) -> int:
    """Temporary files and folders that stand in a run at this moment."""
    names: list[str] = []
    for folder in (run, run / "checkpoints"):
        try:
            names += os.listdir(folder)
        except FileNotFoundError:
            continue
    return sum(name.startswith(".") and name != ".lock" for name in names)


def kill_in_time(child: int, run: Path, draw: random.Random, duration: float) -> int | None:
    """Wait for a random moment and kill; the exit code of a child that had ended before it, else None."""
    deadline = time.monotonic() + draw.uniform(0, duration)
    while_writing = draw.random() < 0.5
    while time.monotonic() < deadline or (while_writing and not writes(run)):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001 if not while_writing else 0.0002)
    time.sleep(draw.uniform(0, 0.003))
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == -signal.SIGKILL else code


def outcome(run: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on how often it was interrupted."""
    info = json.loads((run / "run.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = sorted((run / "checkpoints").glob("step-*/*.safetensors"))
    return {
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
        "weights": _hash(run / "model" / "model.safetensors"),
        "checkpoints": {str(path.relative_to(run)): _hash(path) for path in kept},
        "evaluation": json.loads((run / "evaluation.json").read_text()),
        "info": {key: info[key] for key in ("status", "steps", "best_step", "model_hash", "data")},
        "left behind": sorted(p.name for p in run.rglob(".*") if p.name != ".lock"),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the parts in which two outcomes differ."""
    return [name for name in one if one[name] != other[name]]


def measure(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill and resume until ``kills`` processes were killed and the last run is finished."""
    draw = random.Random(seed)
    duration, peace = _run_in_peace(folder)
    counts = Counter[str]()
    unequal: list[str] = []
    began = time.monotonic()
    for number in _numbers(counts, kills):
        run = folder / f"run-{number}"
        log = folder / f"run-{number}.log"
        interrupted = False
        code = None
        while code is None:
            resumes = (run / "settings.yaml").exists()
            child = start(command(folder, run), log)
            if counts["kills"] < kills:
                code = kill_in_time(child, run, draw, 1.1 * duration)
            else:
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            counts["kills"] += code is None
            counts["resumes"] += resumes
            counts["resumes that failed"] += resumes and code not in (None, 0)
            interrupted |= code is None
        finished = code == 0 and (run / "report.html").exists()
        counts["runs"] += 1
        counts["interrupted runs"] += interrupted
        counts["finished"] += finished
        if not finished:
            print(f"run {number} ended with code {code}:\n{log.read_text()[-2000:]}", file=sys.stderr)
            continue
        found = outcome(run)
        wrong = differences(found, peace)
        counts["equal"] += not wrong
        unequal += [f"run {number}: {name}: {found[name]}" for name in wrong]
        shutil.rmtree(run)
    return {**counts, "unequal": unequal, "seconds": round(time.monotonic() - began, 1)}


def _numbers(counts: Counter[str], kills: int) -> Iterator[int]:
    while counts["kills"] < kills:
        yield counts["runs"]


def _run_in_peace(folder: Path) -> tuple[float, dict[str, Any]]:
    """Seconds and outcome of an uninterrupted run (the second of two, both warm)."""
    for name in ("warm", "peace"):
        began = time.monotonic()
        child = start(command(folder, folder / name), folder / f"{name}.log")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        duration = time.monotonic() - began
        if code:
            raise SystemExit(f"the uninterrupted run failed:\n{(folder / f'{name}.log').read_text()}")
    one, other = outcome(folder / "warm"), outcome(folder / "peace")
    if wrong := differences(one, other):
        raise SystemExit(f"two uninterrupted runs differ in {', '.join(wrong)}")
    return duration, other


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Print one JSON object; exit code 1 unless every run finished and equals the one left in peace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import holdtrue.evaluation.summary
    import holdtrue.planning
    import holdtrue.report
    import holdtrue.reward.store  # noqa: F401  # children inherit all that was imported

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy.write_model(folder / "model")
        toy.write_pairs(folder / "train.jsonl", 40)
        toy.write_pairs(folder / "eval.jsonl", 12, seed=1)
        result = measure(folder, arguments.kills, arguments.seed)
    print(json.dumps(result))
    return 0 if result["runs"] == result.get("finished") == result.get("equal") else 1


if __name__ == "__main__":
    sys.exit(main())
