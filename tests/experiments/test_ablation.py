"""An ablation: one ingredient removed at a time, the same seeds, the same held-out pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.errors import DataError, Interrupted, QualityError, SettingsError
from holdtrue.experiments.ablation import ablate, remove
from holdtrue.rundir import RunDir, read_json
from holdtrue.settings import Settings

SettingsOf = Callable[..., Settings]
RECIPE = {"loss.center": 0.5, "training.learning_rate": 0.02, "training.lr_scheduler_type": "linear"}


@pytest.mark.parametrize(
    ("drop", "was", "now"),
    [
        ("loss.center", 0.5, 0.0),
        ("training.learning_rate", 0.02, None),
        ("training.lr_scheduler_type", "linear", "cosine"),
        ("training.lr_scheduler_type=constant", "linear", "constant"),
        ("training.max_grad_norm=0", 1.0, 0.0),
        ("training.learning_rate=1e-3", 0.02, 0.001),
        (
            "model.lora=null",
            {"r": 4, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear", "merge": False},
            None,
        ),
        ("model.lora.r", 4, 16),
    ],
)
def test_an_ingredient_goes_back_to_its_default_or_becomes_what_is_said(
    settings_of: SettingsOf, drop: str, was: Any, now: Any
) -> None:
    full = settings_of({**RECIPE, "model.lora.r": 4})
    variant = remove(full, drop)
    assert (variant.was, variant.now) == (was, now)
    changed: Any = variant.settings.dump()
    before: Any = full.dump()
    section, _, key = variant.key.rpartition(".") if variant.key else ("", "", "")
    for part in section.split("."):
        changed, before = changed[part], before[part]
    assert changed[key] == now and {k: v for k, v in changed.items() if k != key} == {
        k: v for k, v in before.items() if k != key
    }


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("loss.label_smoothing", r"has its default, 0.0, already, so nothing would change"),
        ("training.lr_scheduler_type=linear", r"is 'linear' already"),
        ("training.learning_rat", r"did you mean 'training.learning_rate'"),
        ("loss.centre", r"centre.*did you mean 'center'"),
        ("loss.centre=1", r"centre.*did you mean 'center'"),
        ("training.max_steps.x", r"max_steps"),
        ("model.lora.r", r"model.lora.r is not set, as model.lora is not"),
        ("training.max_grad_norm=-1", r"greater than or equal to 0"),
        ("seed", "stays the same"),
        ("data.eval", "stays the same"),
        ("data", "stays the same"),
        ("sweep.trials=3", "stays the same"),
        ("model.path=other", "stays the same"),
    ],
)
def test_what_cannot_be_dropped_is_refused(settings_of: SettingsOf, drop: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        remove(settings_of(RECIPE), drop)


def test_differences_are_those_of_the_runs_on_the_same_pairs_over_the_same_seeds(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    drops = ["loss.center", "training.learning_rate=1e-6"]
    result = ablate(settings_of(RECIPE), drops, 2, tmp_path / "ab")

    def measured(name: str, seed: int) -> dict[str, Any]:
        run = RunDir(tmp_path / "ab" / "runs" / name / f"seed-{seed}")
        assert run.settings()["seed"] == seed and not run.checkpoints.exists()
        found: dict[str, Any] = read_json(run.evaluation_file)["results"][0]
        return found

    assert [row["name"] for row in result["variants"]] == sorted(
        drops, key=lambda name: sum(measured(name, seed)["accuracy"] for seed in (42, 43))
    )
    for row in result["variants"]:
        assert row["seeds"] == [42, 43]
        for metric in ("accuracy", "loss"):
            # all 20 pairs have one rater's choice and both rewards, so paired means are differences of means
            expected = [measured(row["name"], s)[metric] - measured("full", s)[metric] for s in (42, 43)]
            assert row[metric]["difference_by_seed"] == pytest.approx(expected)
            assert row[metric]["difference"] == pytest.approx(sum(expected) / 2)
            low, high = row[metric]["interval"]
            assert low <= row[metric]["difference"] <= high
            assert (row[metric]["comparisons"], row[metric]["prompts"]) == (
                20,
                result["full"][metric]["prompts"],
            )
    assert result["full"]["accuracy"]["difference"] == 0
    page = (tmp_path / "ab" / "report.html").read_text()
    assert "training.learning_rate=1e-6" in page and 'href="runs/full/seed-42/report.html"' in page


def test_finished_runs_are_kept_and_only_what_was_added_is_trained(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    begun: list[tuple[str, int]] = []

    def tell(event: str, values: dict[str, Any]) -> None:
        if event == "prepared":
            trained.append(begun[-1])
        elif event == "run":
            begun.append((values["name"], values["seed"]))

    trained: list[tuple[str, int]] = []
    rows: list[str] = []
    with pytest.raises(Interrupted, match="the same command goes on"):
        ablate(
            settings_of(RECIPE),
            ["loss.center"],
            1,
            tmp_path / "ab",
            tell=lambda event, values: rows.append(event),
            stop=lambda: rows.count("run") == 2,
        )
    assert RunDir(tmp_path / "ab" / "runs" / "full" / "seed-42").info()["status"] == "finished"
    first = ablate(settings_of(RECIPE), ["loss.center"], 1, tmp_path / "ab", tell=tell)
    assert trained == [("loss.center", 42)]
    ablate(settings_of(RECIPE), ["training.learning_rate", "loss.center"], 2, tmp_path / "ab", tell=tell)
    assert sorted(trained[1:]) == sorted(
        [("training.learning_rate", 42), ("full", 43), ("loss.center", 43), ("training.learning_rate", 43)]
    )
    whole = ablate(settings_of(RECIPE), ["loss.center"], 1, tmp_path / "whole")
    assert first["variants"] == whole["variants"]


def test_a_run_that_fails_is_recorded_with_its_reason_and_the_others_are_compared(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    fatal = {**RECIPE, "training.max_grad_norm": 0, "training.max_nonfinite_steps": 1}
    drops = ["training.learning_rate=1e30", "loss.center"]
    result = ablate(settings_of(fatal), drops, 1, tmp_path / "ab")
    apart = result["variants"][-1]
    assert apart["name"] == drops[0] and apart["accuracy"] is None and "not finite" in apart["failed"]["42"]
    assert result["variants"][0]["accuracy"]["comparisons"] == 20
    assert "seed 42 failed and is left out" in (tmp_path / "ab" / "report.html").read_text()


def test_pairs_that_a_run_cannot_score_are_left_out_of_every_run_and_counted(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    full = settings_of({**RECIPE, "data.max_length": 64})
    result = ablate(full, ["data.max_length=16", "loss.center"], 1, tmp_path / "ab")
    short, other = sorted(result["variants"], key=lambda row: row["loss"]["comparisons"])
    assert short["name"] == "data.max_length=16" and short["unscored"] > 0 == other["unscored"]
    assert short["loss"]["comparisons"] + short["unscored"] == 20 == other["loss"]["comparisons"]
    assert "left out where an answer has no reward" in (tmp_path / "ab" / "report.html").read_text()


def test_held_out_pairs_that_changed_are_not_compared_with_those_of_before(
    settings_of: SettingsOf, toy_folder: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "eval.jsonl"
    text = (toy_folder / "eval.jsonl").read_text()
    pairs.write_text(text)
    settings = settings_of({**RECIPE, "data.eval": [str(pairs)]})
    ablate(settings, ["loss.center"], 1, tmp_path / "ab")
    pairs.write_text(text.partition("\n")[2])
    with pytest.raises(
        QualityError, match=r"full recipe finished with no seed.*other pairs than those held out"
    ):
        ablate(settings, ["loss.center"], 1, tmp_path / "ab")


@pytest.mark.parametrize(
    ("changes", "drops", "error", "message"),
    [
        ({}, [], SettingsError, "nothing to drop"),
        ({}, ["loss.center", "loss.center=0"], SettingsError, "are the same change"),
        ({"data.eval": [], "data.eval_fraction": 0}, ["loss.center"], SettingsError, "held-out pairs"),
        ({"model.path": None}, ["loss.center"], SettingsError, "needs data and a model"),
        ({"data.plain_text": "raw"}, ["data.plain_text"], DataError, "changes the held-out pairs"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    settings_of: SettingsOf,
    tmp_path: Path,
    changes: dict[str, Any],
    drops: list[str],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        ablate(settings_of({**RECIPE, **changes}), drops, 1, tmp_path / "ab")
    assert not (tmp_path / "ab").exists()
