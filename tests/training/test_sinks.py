from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from holdtrue.errors import ResourceError, SettingsError
from holdtrue.rundir import RunDir, append_jsonl
from holdtrue.training.sinks import Sinks, rewind


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", {"seed": 1})


def row(step: int, event: str = "train") -> dict[str, object]:
    return {"event": event, "step": step, "loss": 1 / step}


def write(run: RunDir, names: list[str], steps: range, resumed_at: int | None = None) -> None:
    with Sinks(names, run, {"seed": 1}, resumed_at=resumed_at) as sinks:
        for step in steps:
            sinks.write(row(step))


@pytest.mark.filterwarnings("default")  # tensorboard's own
def test_tensorboard_gets_the_numbers_of_each_row_under_event_and_key(run):
    pytest.importorskip("tensorboard")
    with Sinks(["tensorboard"], run, {"seed": 1}) as sinks:
        sinks.write({"event": "train", "step": 1, "loss": 0.5, "skipped": 0, "note": "text", "done": True})
        sinks.write({"event": "eval", "step": 2, "accuracy": 0.75})
    assert scalars(run) == {
        "train/loss": [(1, 0.5)],
        "train/skipped": [(1, 0.0)],
        "eval/accuracy": [(2, 0.75)],
    }


@pytest.mark.filterwarnings("default")
def test_tensorboard_hides_what_a_resumed_run_writes_anew(run):
    pytest.importorskip("tensorboard")
    write(run, ["tensorboard"], range(1, 5))
    write(run, ["tensorboard"], range(3, 4), resumed_at=2)
    assert [step for step, _ in scalars(run)["train/loss"]] == [1, 2, 3]


def scalars(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("default")
def test_wandb_gets_the_rows_and_a_resumed_run_keeps_its_identity(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write(run, ["wandb"], range(1, 3))
    identity = run.info()["wandb"]
    write(run, ["wandb"], range(3, 4), resumed_at=2)
    assert run.info()["wandb"] == identity
    assert len(list(run.path.glob(f"wandb/offline-run-*/run-{identity}.wandb"))) == 2


@pytest.mark.filterwarnings("default")
def test_trackio_gets_the_rows_and_prints_nothing_to_stdout(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    write(run, ["trackio"], range(1, 3))
    write(run, ["trackio"], range(3, 4), resumed_at=2)
    database = sqlite3.connect(tmp_path / "trackio" / "holdtrue.db")
    seen = database.execute("select step, metrics from metrics order by step").fetchall()
    assert [(step, json.loads(values)["train/loss"]) for step, values in seen] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_names_the_extra_that_brings_it(name, run, monkeypatch):
    for module in [
        m for m in sys.modules if m.split(".")[0] == name or m.startswith("torch.utils.tensorboard")
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=rf"report_to names {name}.*pip install 'holdtrue\[trackers\]'"):
        Sinks([name], run, {})


def test_without_trackers_rows_go_nowhere(run):
    before = set(run.path.iterdir())
    write(run, [], range(1, 3))
    assert set(run.path.iterdir()) == before


def test_rewind_takes_out_later_rows_and_keeps_every_byte_of_the_others(run):
    odd = b'{"event":"train",  "step": 2, "note": "line\xe2\x80\xa8separator"}\n'
    append_jsonl(run.metrics_file, [row(1)])
    before = run.metrics_file.read_bytes()
    run.metrics_file.write_bytes(before + odd)
    append_jsonl(run.metrics_file, [row(2, "eval"), row(3), row(3, "eval")])
    assert rewind(run, 2) == 2
    assert run.metrics_file.read_bytes().startswith(before + odd)
    assert [(r["step"], r["event"]) for r in run.metrics()] == [(1, "train"), (2, "train"), (2, "eval")]


def test_rewind_takes_out_rows_between_others(run):
    append_jsonl(run.metrics_file, [row(1), row(9), row(2)])
    assert rewind(run, 2) == 1
    assert [r["step"] for r in run.metrics()] == [1, 2]


@pytest.mark.parametrize(
    "tail", [b'{"event":"train","st', b'{"step": 2}', b"\0\0\0\0", b"\xff\xfe\n", b"[1]\n", b"\n"]
)
def test_rewind_takes_out_a_cut_or_garbage_line(run, tail):
    append_jsonl(run.metrics_file, [row(1)])
    whole = run.metrics_file.read_bytes()
    run.metrics_file.write_bytes(whole + tail)
    assert rewind(run, 5) == 1
    assert run.metrics_file.read_bytes() == whole


def test_rewind_to_before_the_first_row_leaves_an_empty_file_and_none_is_none(run):
    assert rewind(run, 0) == 0
    append_jsonl(run.metrics_file, [row(1), row(2)])
    assert rewind(run, 0) == 2
    assert run.metrics_file.read_bytes() == b""


def test_a_full_disk_while_rewinding_keeps_the_file(run, monkeypatch):
    append_jsonl(run.metrics_file, [row(1), row(2)])
    before, files = run.metrics_file.read_bytes(), set(run.path.iterdir())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk full"):
        rewind(run, 1)
    assert run.metrics_file.read_bytes() == before
    assert set(run.path.iterdir()) == files


@hypothesis_settings(max_examples=50)
@given(cut=st.integers(0, 400), step=st.integers(0, 9))
def test_a_file_cut_anywhere_rewinds_to_its_whole_early_rows(run, cut, step):
    run.metrics_file.write_text("".join(json.dumps(row(n)) + "\n" for n in range(1, 9)))
    run.metrics_file.write_bytes(run.metrics_file.read_bytes()[:cut])
    whole = [json.loads(line)["step"] for line in run.metrics_file.read_text().split("\n")[:-1]]
    rewind(run, step)
    assert [r["step"] for r in run.metrics()] == [n for n in whole if n <= step]
    assert rewind(run, step) == 0
