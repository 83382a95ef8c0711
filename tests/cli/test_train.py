"""``holdtrue train``: what it prints, its exit codes, and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toy
from holdtrue.rundir import RunDir

Run = Callable[..., Any]


@pytest.fixture
def arguments(toy_folder: Path, tmp_path: Path) -> list[object]:
    line: list[object] = ["train", toy_folder / "train.jsonl", "--eval", toy_folder / "eval.jsonl"]
    return [
        *line,
        "--model",
        toy_folder / "model",
        "--output",
        tmp_path / "run",
        "--set",
        "training.max_steps=2",
    ]


def test_json_is_one_value_that_names_the_model_and_its_accuracy(
    holdtrue: Run, arguments: list[object], tmp_path: Path
) -> None:
    done = holdtrue(*arguments, "--json")
    assert done.code == 0
    value = done.value
    assert value["run"] == str(tmp_path / "run") and value["steps"] == 2
    assert Path(value["model"], "model.safetensors").exists() and Path(value["report"]).exists()
    assert value["dropped"] == {"train": {}, "eval": {}}
    assert value["evaluation"]["count"] == 20 and 0 <= value["evaluation"]["accuracy"] <= 1


def test_text_says_accuracy_and_where_things_are_and_progress_goes_to_stderr(
    holdtrue: Run, arguments: list[object], tmp_path: Path
) -> None:
    done = holdtrue(*arguments)
    assert done.code == 0
    assert "accuracy" in done.out and str(tmp_path / "run" / "report.html") in done.out
    assert "step      1/2" in done.err and "validation" in done.err and "tokens/s" not in done.out
    assert "60 comparisons of 46 prompts" in done.err


def test_a_settings_file_flags_and_overrides_go_together_the_last_winning(
    holdtrue: Run, toy_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        f"data:\n  train: [{toy_folder / 'train.jsonl'}]\nmodel:\n  path: {toy_folder / 'model'}\n"
        "training:\n  max_steps: 5\n  learning_rate: 1e-3\nseed: 3\n"
    )
    done = holdtrue("train", file, "-o", tmp_path / "run", "--set", "training.max_steps=1")
    assert done.code == 0
    kept = RunDir(tmp_path / "run").settings()
    assert (kept["training"]["max_steps"], kept["training"]["learning_rate"], kept["seed"]) == (1, 1e-3, 3)


def test_a_loss_of_ratings_needs_no_comparisons(holdtrue: Run, toy_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rated.jsonl"
    rows = [{"prompt": f"p{i}", "completion": "kind " * (i % 3), "rating": i % 3} for i in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["train", data, "--model", toy_folder / "model", "-o", tmp_path / "run", "--set", "loss=mse"]
    done = holdtrue(*line, "--set", "training.max_steps=1", "--json")
    assert done.code == 0 and done.value["evaluation"]["accuracy"] is None
    assert done.value["evaluation"]["answers"] and done.value["dropped"] == {"train": {}, "eval": {}}


GARBAGE = 'garbage\n{"prompt": 1}\n'
LONG = json.dumps({"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows in"),
        ("\n\n", "no rows in"),
        (GARBAGE, "no usable rows"),
        ('{"a": 1}\n', "layout not recognised"),
        (LONG, "no usable comparisons left: 1 longer than max_length"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}\n', "identical sides"),
        (
            '{"prompt": "a", "completion": "b"}\n',
            "learns from comparisons, which none of the 1 training rows",
        ),
    ],
    ids=["empty", "blank", "garbage", "columns", "long", "identical", "no comparison"],
)
def test_data_that_cannot_be_used_ends_with_3(
    holdtrue: Run, toy_folder: Path, tmp_path: Path, content: str, message: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(content)
    line = ["train", data, "--model", toy_folder / "model", "-o", tmp_path / "run", "--json"]
    done = holdtrue(*line)
    assert done.code == 3 and message in done.error["message"]
    assert RunDir(tmp_path / "run").info()["exit_code"] == 3


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--set", "training.max_steps=abc"], 2, "training.max_steps: should be a valid integer"),
        (["--set", "training.maxsteps=3"], 2, "did you mean 'training.max_steps'?"),
        (["--set", "training.max_steps"], 2, "--set takes key=value"),
        (["--set", "loss=nonsense"], 2, "unknown loss 'nonsense'"),
        (["--set", "loss.centre=1"], 2, "centre"),
        (["--set", "data.format=nonsense"], 2, "unknown format 'nonsense'"),
        (["--set", "training.gradient_accumulation_steps=2"], 2, "per_device_train_batch_size"),
        (["--set", "data.max_length=4096"], 2, "more than the 128 tokens the model can take"),
        (["--set", "loss=cross_entropy"], 2, "set model.kind to one it trains: two_class"),
        (["--column", "margin"], 2, "--column takes KEY=NAME"),
        (["--column", "margin=nonsense"], 3, "no column 'nonsense'"),
        (["--model", "/no/model"], 3, "model /no/model does not exist"),
        (["--eval", "/no/eval.jsonl"], 3, "data file /no/eval.jsonl does not exist"),
        (["/no/pairs.jsonl"], 3, "data file /no/pairs.jsonl does not exist"),
        (["/no/settings.yaml"], 3, "settings file /no/settings.yaml does not exist"),
        (["--processes", "0"], 2, "--processes"),
        (["--nonsense"], 2, "--nonsense"),
        (["--output", "/proc/nowhere/run"], 3, "cannot write /proc/nowhere/run"),
    ],
)
def test_mistakes_have_their_exit_code_and_one_json_value(
    holdtrue: Run, arguments: list[object], extra: list[str], code: int, message: str
) -> None:
    done = holdtrue(*arguments, *extra, "--json")
    assert done.code == code
    assert message in done.error["message"]
    assert message in done.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("training: [a: b: c", "not valid YAML: expected ',' or ']', but got ':' at line 1, column 16"),
        ("- 1\n", "expected a mapping"),
        ("training: 3\n", "training"),
    ],
)
def test_broken_settings_end_with_2(holdtrue: Run, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "settings.yaml").write_text(content)
    done = holdtrue("train", tmp_path / "settings.yaml", "-o", tmp_path / "run", "--json")
    assert done.code == 2 and message in done.error["message"]
    assert not (tmp_path / "run").exists()


def test_half_of_what_is_needed_ends_with_2(holdtrue: Run, toy_folder: Path, tmp_path: Path) -> None:
    data, model, output = toy_folder / "train.jsonl", toy_folder / "model", tmp_path / "run"
    assert "--output" in holdtrue("train", data, "--model", model, "--json").error["message"]
    assert "--model" in holdtrue("train", data, "-o", output, "--json").error["message"]
    assert "data" in holdtrue("train", "--model", model, "-o", output, "--json").error["message"]
    assert not output.exists()


def test_a_second_run_into_the_same_directory_is_refused_with_what_to_do(
    holdtrue: Run, arguments: list[object], toy_run: Path
) -> None:
    before = sorted(toy_run.rglob("*"))
    done = holdtrue(*arguments, "--output", toy_run, "--json")
    assert done.code == 2 and f"holdtrue resume {toy_run}" in done.error["message"]
    assert sorted(toy_run.rglob("*")) == before


def test_an_accuracy_below_the_gate_ends_with_4_and_the_result(
    holdtrue: Run, arguments: list[object]
) -> None:
    done = holdtrue(*arguments, "--set", "evaluation.min_accuracy=1.0", "--json")
    assert done.code == 4 and done.value["evaluation"]["accuracy"] < 1


def test_training_that_falls_apart_ends_with_4(
    holdtrue: Run, arguments: list[object], tmp_path: Path
) -> None:
    apart = ["training.learning_rate=1e30", "training.max_grad_norm=0", "training.max_steps=20"]
    done = holdtrue(*arguments, *(part for value in apart for part in ("--set", value)), "--json")
    assert done.code == 4 and "not finite in 5 steps" in done.error["message"]
    assert len(list((tmp_path / "run" / "nonfinite").iterdir())) == 5
    assert RunDir(tmp_path / "run").info()["status"] == "failed"


def test_dry_run_is_the_plan_and_writes_nothing(
    holdtrue: Run, arguments: list[object], tmp_path: Path
) -> None:
    done = holdtrue(*arguments, "--dry-run", "--json")
    assert done.code == 0 and done.value["steps"] == 2
    assert not (tmp_path / "run").exists()


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "holdtrue", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.01)


def resume_for_two_steps(holdtrue: Run, run: RunDir) -> None:
    """Go on with an interrupted run; all that is left of it would take minutes."""
    rows, kept = run.metrics(), run.settings()
    kept["training"]["max_steps"] = (rows[-1]["step"] if rows else 0) + 2
    run.settings_file.write_text(json.dumps(kept))
    assert holdtrue("resume", run.path, "--json").value["steps"] == kept["training"]["max_steps"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_training_saves_and_ends_with_5_and_the_run_can_be_resumed(
    holdtrue: Run, arguments: list[object], tmp_path: Path, number: int
) -> None:
    settings = ["--set", "training.max_steps=4000", "--set", "training.save_steps=4000"]
    child = started(*arguments, *settings, "--set", "training.eval_steps=4000", "--json")
    run = RunDir(tmp_path / "run")
    wait_until(lambda: len(run.metrics()) >= 3, child)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 5, err
    assert json.loads(out)["error"]["type"] == "Interrupted"
    assert "stopping after this step" in err and "Traceback" not in err
    assert (run.checkpoints / f"step-{run.metrics()[-1]['step']:08d}" / "MANIFEST.json").exists()
    resume_for_two_steps(holdtrue, run)


def test_ctrl_c_while_loading_ends_with_5_and_the_run_can_be_resumed(
    holdtrue: Run, arguments: list[object], tmp_path: Path
) -> None:
    settings = ["--set", "training.max_steps=4000", "--set", "training.save_steps=4000"]
    child = started(*arguments, *settings)
    run = RunDir(tmp_path / "run")
    wait_until(lambda: (run.path / ".lock").exists() or "launch" in (run.info() or {}), child)
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 5, err
    assert "Traceback" not in err
    assert run.info()["status"] == "interrupted"
    resume_for_two_steps(holdtrue, run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes 400 kB, where this process may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_with_6_and_keeps_what_was_there(
    holdtrue: Run, arguments: list[object], small_disk: Path
) -> None:
    output = small_disk / "run"
    values = ["training.max_steps=30", "training.save_steps=1", "training.save_total_limit=20"]
    done = holdtrue(
        *arguments, "--output", output, *(part for value in values for part in ("--set", value)), "--json"
    )
    assert done.code == 6 and "disk full" in done.error["message"]
    from holdtrue.training import checkpoint

    found = checkpoint.newest(RunDir(output))
    assert found is not None and found[0] >= 1
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = holdtrue("resume", output, "--json")
    assert again.code == 0 and again.value["steps"] == 30


def test_a_file_system_that_cannot_be_written_ends_with_3(
    holdtrue: Run, arguments: list[object], small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = holdtrue(*arguments, "--output", small_disk / "run", "--json")
    assert done.code == 3 and "Read-only file system" in done.error["message"]


def test_pairs_of_another_column_name_are_read_as_told(
    holdtrue: Run, toy_folder: Path, tmp_path: Path
) -> None:
    rows = [{**row, "strength": 2.0} for row in toy.pairs(20)]
    data = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows)
    line = ["train", data, "--model", toy_folder / "model", "--set", "training.max_steps=1", "--json"]
    line += ["--set", "data.eval_fraction=0"]
    plain = holdtrue(*line, "-o", tmp_path / "plain")
    read = holdtrue(*line, "-o", tmp_path / "read", "--column", "margin=strength")
    assert plain.code == read.code == 0
    losses = [RunDir(tmp_path / name).metrics()[0]["loss"] for name in ("plain", "read")]
    assert losses[1] > losses[0] + 0.5  # a margin of 2 is asked for beyond the order
