"""A sweep: its trials are ordinary runs, and it goes on wherever it was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdtrue import settings as settings_module
from holdtrue.errors import DataError, HoldtrueError, Interrupted, QualityError, SettingsError
from holdtrue.experiments.sweep import sweep
from holdtrue.rundir import RunDir, read_json
from holdtrue.settings import Settings

SettingsOf = Callable[..., Settings]
RATES = {"training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}


def without_time(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in trials]


def test_every_trial_is_a_run_and_the_best_settings_can_be_trained_again(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    result = sweep(settings_of(space=RATES, trials=3), tmp_path / "sweep")
    assert [row["status"] for row in result["trials"]] == ["finished"] * 3
    for row in result["trials"]:
        run = RunDir.open(tmp_path / "sweep" / row["run"])
        assert run.info()["status"] == "finished" and run.model.is_dir() and run.report_file.exists()
        assert run.settings()["training"]["learning_rate"] == row["values"]["training.learning_rate"]
        assert read_json(run.evaluation_file)["results"][0]["loss"] == row["loss"]
        assert not run.checkpoints.exists()
    best = min(result["trials"], key=lambda row: row["loss"])
    assert result["best"] == best
    kept = settings_module.build(settings_module.read(tmp_path / "sweep" / "best.yaml"))
    assert kept.training.learning_rate == best["values"]["training.learning_rate"] and kept.sweep is None
    assert read_json(tmp_path / "sweep" / "sweep.json") == result


def test_whole_numbers_stay_whole_and_lists_hold_anything(settings_of: SettingsOf, tmp_path: Path) -> None:
    space = {"training.train_batch_size": {"low": 4, "high": 8}, "model.lora": [None, {"r": 2}]}
    result = sweep(settings_of({"training.max_steps": 1}, space=space, trials=3), tmp_path / "sweep")
    sizes = [row["values"]["training.train_batch_size"] for row in result["trials"]]
    assert all(isinstance(size, int) and 4 <= size <= 8 for size in sizes)
    adapters = [row["values"]["model.lora"] for row in result["trials"]]
    assert all(value in (None, {"r": 2}) for value in adapters)
    runs = [RunDir(tmp_path / "sweep" / row["run"]).settings() for row in result["trials"]]
    assert [(run["model"]["lora"] or {}).get("r") for run in runs] == [
        value and value["r"] for value in adapters
    ]


def test_a_trial_worse_than_the_median_is_pruned_and_its_run_says_so(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    # rates from the list in turn: whatever comes second, a rate of 1e-6 learns less than one of 0.05
    given = {"space": {"training.learning_rate": [0.05, 1e-6]}, "startup_trials": 1, "trials": 4}
    result = sweep(settings_of({"training.max_steps": 5}, **given), tmp_path / "sweep")
    pruned = [row for row in result["trials"] if row["status"] == "pruned"]
    assert pruned and {row["values"]["training.learning_rate"] for row in pruned} == {1e-6}
    for row in pruned:
        run = RunDir(tmp_path / "sweep" / row["run"])
        assert run.info()["status"] == "pruned" and row["steps"] < 5 and row["loss"] is None
        assert "error" not in {key for key, value in run.info().items() if value is not None}
    assert result["best"]["values"] == {"training.learning_rate": 0.05}


@pytest.mark.parametrize(
    ("space", "metric", "shown"),
    [
        (RATES, "loss", "loss"),
        (RATES, "accuracy", "accuracy"),
        ({"loss.center": {"low": 0, "high": 1}}, "accuracy", "accuracy"),
        ({"loss.center": {"low": 0, "high": 1}}, "loss", "share of mistakes"),
    ],
)
def test_trials_are_compared_by_what_means_the_same_in_all_of_them(
    settings_of: SettingsOf, tmp_path: Path, space: dict[str, Any], metric: str, shown: str
) -> None:
    result = sweep(settings_of(space=space, metric=metric, trials=2), tmp_path / "sweep")
    assert result["validation"] == shown
    better = min if metric == "loss" else max
    assert result["best"][metric] == better(row[metric] for row in result["trials"])
    row = result["trials"][0]
    logged = [r for r in RunDir(tmp_path / "sweep" / row["run"]).metrics() if r["event"] == "eval"]
    values = [1 - r["accuracy"] if shown == "share of mistakes" else r[metric] for r in logged]
    assert row["validations"] == [[n, pytest.approx(value)] for n, value in enumerate(values, start=1)]


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_others_go_on(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    fatal = {"training.max_grad_norm": 0, "training.max_nonfinite_steps": 1, "training.max_steps": 5}
    space = {"training.learning_rate": [1e-3, 1e30]}
    result = sweep(settings_of(fatal, space=space, trials=5, pruner="none"), tmp_path / "sweep")
    failed = [row for row in result["trials"] if row["status"] == "failed"]
    assert failed and all("not finite" in row["reason"] for row in failed)
    assert {row["values"]["training.learning_rate"] for row in failed} == {1e30}
    assert result["best"]["values"] == {"training.learning_rate": 1e-3}
    assert "not finite" in (tmp_path / "sweep" / "report.html").read_text()


def test_a_sweep_in_which_nothing_finishes_says_why(settings_of: SettingsOf, tmp_path: Path) -> None:
    space = {"data.max_length": [2, 3]}
    with pytest.raises(QualityError, match=r"none of the 2 trials finished.*no usable comparisons left"):
        sweep(settings_of(space=space, trials=2), tmp_path / "sweep")
    assert read_json(tmp_path / "sweep" / "sweep.json")["best"] is None


def test_one_that_was_stopped_or_asked_for_more_goes_on_as_if_nothing_had_happened(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    whole = sweep(settings_of(space=RATES, trials=4), tmp_path / "whole")
    rows: list[str] = []
    with pytest.raises(Interrupted, match=r"stopped in trial 1.*holdtrue sweep --output"):
        sweep(
            settings_of(space=RATES, trials=3),
            tmp_path / "parts",
            tell=lambda event, values: rows.append(event),
            stop=lambda: rows.count("trial") == 2 and rows[-1] == "metrics",
        )
    status = RunDir(tmp_path / "parts" / "trials" / "0001").info()["status"]
    assert status == "interrupted"
    first = sweep(settings_of(space=RATES, trials=3), tmp_path / "parts")
    before = (tmp_path / "parts" / "trials" / "0000" / "metrics.jsonl").stat().st_mtime_ns
    more = sweep(settings_of(space=RATES, trials=4), tmp_path / "parts")
    assert without_time(first["trials"]) == without_time(whole["trials"][:3])
    assert without_time(more["trials"]) == without_time(whole["trials"])
    assert (tmp_path / "parts" / "trials" / "0000" / "metrics.jsonl").stat().st_mtime_ns == before


def test_one_that_was_killed_goes_on_as_if_nothing_had_happened(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    long = {"training.max_steps": 12}
    whole = sweep(settings_of(long, space=RATES, trials=3), tmp_path / "whole")
    plain = settings_of(long, space=RATES, trials=3).dump()
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(plain))
    line = [sys.executable, "-m", "holdtrue", "sweep", "settings.yaml", "-o", "killed"]
    child = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = RunDir(tmp_path / "killed" / "trials" / "0001")
    deadline = time.monotonic() + 60
    while len(run.metrics()) < 4:
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert run.info()["status"] == "running"
    resumed = sweep(settings_of(long, space=RATES, trials=3), tmp_path / "killed")
    assert without_time(resumed["trials"]) == without_time(whole["trials"])


def test_a_trial_killed_between_the_decision_to_prune_it_and_its_end_is_pruned_all_the_same(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    given = {"space": {"training.learning_rate": [0.05, 1e-6]}, "startup_trials": 1, "trials": 4}
    whole = sweep(settings_of({"training.max_steps": 5}, **given), tmp_path / "whole")
    pruned = next(row for row in whole["trials"] if row["status"] == "pruned")
    current: list[int] = []

    def die(event: str, values: dict[str, Any]) -> None:
        if event == "trial":
            current.append(values["number"])
        if current[-1] == pruned["number"] and values.get("step") == pruned["steps"]:
            raise KeyboardInterrupt  # in the step after the validation, before that step is saved

    with pytest.raises(KeyboardInterrupt):
        sweep(settings_of({"training.max_steps": 5}, **given), tmp_path / "killed", tell=die)
    resumed = sweep(settings_of({"training.max_steps": 5}, **given), tmp_path / "killed")
    assert resumed["trials"][pruned["number"]]["validations"] == pruned["validations"]
    assert resumed["trials"][pruned["number"]]["status"] == "pruned"


def test_a_folder_with_another_sweep_or_other_files_is_left_alone(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    sweep(settings_of(space=RATES, trials=1), tmp_path / "sweep")
    with pytest.raises(SettingsError, match=r"training.max_steps was 3 and is 4; choose another --output"):
        sweep(settings_of({"training.max_steps": 4}, space=RATES, trials=1), tmp_path / "sweep")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(SettingsError, match=r"holds no sweep.yaml"):
        sweep(settings_of(space=RATES, trials=1), tmp_path / "notes")


def test_trials_measured_on_a_changed_file_are_not_compared(
    settings_of: SettingsOf, toy_folder: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "eval.jsonl"
    text = (toy_folder / "eval.jsonl").read_text()
    pairs.write_text(text)
    given = {"data.eval": [str(pairs)]}
    sweep(settings_of(given, space=RATES, trials=1), tmp_path / "sweep")
    pairs.write_text(text.partition("\n")[2])
    result = sweep(settings_of(given, space=RATES, trials=2), tmp_path / "sweep")
    assert result["trials"][1]["reason"] == "its held-out pairs are not those of trial 0"


def test_a_missing_file_ends_the_sweep_before_a_trial_is_spent(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"none.jsonl does not exist"):
        sweep(settings_of({"data.train": [str(tmp_path / "none.jsonl")]}, space=RATES), tmp_path / "sweep")
    assert read_json(tmp_path / "sweep" / "sweep.json")["trials"] == []


@pytest.mark.parametrize(
    ("changes", "space", "message"),
    [
        ({}, {}, "no search space"),
        ({"model.path": None}, RATES, "needs data and a model"),
        ({"data.eval": [], "data.eval_fraction": 0}, RATES, "held-out pairs"),
        ({"training.processes": 2}, RATES, "in one process"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    settings_of: SettingsOf, tmp_path: Path, changes: dict[str, Any], space: dict[str, Any], message: str
) -> None:
    with pytest.raises(HoldtrueError, match=message):
        sweep(settings_of(changes, space=space), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_without_optuna_it_says_what_to_install(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"pip install 'holdtrue\[sweep\]'"):
        sweep(settings_of(space=RATES), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
