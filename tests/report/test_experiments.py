"""The pages of a sweep and of an ablation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from holdtrue.report import ablation, experiment_figures
from holdtrue.report import sweep as sweep_page

HOSTILE = "</script><script>alert(1)</script>"


def trial(number: int, status: str = "finished", **values: Any) -> dict[str, Any]:
    row = {
        "number": number,
        "status": status,
        "values": {"training.learning_rate": 0.001 * (number + 1), "model.path": "a"},
        **dict.fromkeys(("loss", "accuracy", "interval", "count", "steps", "seconds", "reason")),
        "validations": [[1, 0.7]],
        "run": f"trials/{number:04d}",
    }
    return row | values


@pytest.fixture
def swept() -> dict[str, Any]:
    measured = {"accuracy": 0.7, "interval": [0.6, 0.8], "count": 100, "seconds": 4.0}
    trials = [
        trial(0, loss=0.6, **measured),
        trial(1, loss=0.5, **measured),
        trial(2, "pruned"),
        trial(3, "failed", reason=HOSTILE),
    ]
    return {
        "folder": "runs/sweep",
        "metric": "loss",
        "validation": "loss",
        "asked": 6,
        "space": {
            "training.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
            "model.path": ["a", HOSTILE],
        },
        "trials": trials,
        "best": trials[1],
    }


def effect(difference: float, low: float, high: float) -> dict[str, Any]:
    return {
        "value": 0.7 + difference,
        "by_seed": [0.7 + difference],
        "difference": difference,
        "interval": [low, high],
        "difference_by_seed": [difference],
        "comparisons": 200,
        "prompts": 150,
    }


def variant(name: str, accuracy: dict[str, Any] | None, **values: Any) -> dict[str, Any]:
    row = {"name": name, "key": name, "was": 1, "now": HOSTILE, "seeds": [42] if accuracy else []}
    return (
        row | {"failed": {}, "unscored": 0, "runs": "runs/x", "accuracy": accuracy, "loss": accuracy} | values
    )


@pytest.fixture
def ablated() -> dict[str, Any]:
    variants = [
        variant("loss.center", effect(-0.031, -0.05, -0.012)),
        variant("a=b", effect(0.02, -0.01, 0.05)),
        variant("c", None, failed={"42": "not finite"}),
    ]
    full = variant("full", effect(0.0, 0.0, 0.0))
    return {"folder": "runs/ab", "confidence": 0.95, "seeds": [42], "full": full, "variants": variants}


def assert_closed(page: str) -> None:
    """No text of the data is markup, and nothing is loaded."""
    assert HOSTILE not in page and "Content-Security-Policy" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)


def test_a_sweeps_page_names_the_best_trial_and_all_others(swept: dict[str, Any], tmp_path: Path) -> None:
    sweep_page.write_sweep_report(tmp_path / "report.html", swept)
    page = (tmp_path / "report.html").read_text()
    assert "Of 4 trials number 1 is the best by loss: a log loss of 0.5000 nats" in page
    assert "not complete: 4 of 6 trials have ended" in page and "other pairs" in page
    assert page.index('href="trials/0001/report.html"') < page.index('href="trials/0000/report.html"')
    assert 'href="trials/0002' not in page
    assert_closed(page)


def test_a_sweep_without_a_finished_trial_has_a_page(swept: dict[str, Any], tmp_path: Path) -> None:
    for trials in ([], swept["trials"][2:]):
        sweep_page.write_sweep_report(tmp_path / "report.html", swept | {"trials": trials, "best": None})
        assert f"None of {len(trials)} trials has finished" in (tmp_path / "report.html").read_text()


def test_the_best_so_far_never_gets_worse_and_the_best_has_its_own_colour(swept: dict[str, Any]) -> None:
    swept["trials"].insert(2, trial(2, loss=0.55))
    drawn = experiment_figures.history(swept)
    assert drawn is not None
    line, points = drawn["data"]
    assert line["y"] == [0.6, 0.5, 0.5] and points["y"] == [0.6, 0.5, 0.55]
    assert points["marker"]["color"] == ["--chosen", "--rejected", "--chosen"]
    searched = experiment_figures.searched(swept, "training.learning_rate")
    assert searched is not None and searched["layout"]["xaxis"]["type"] == "log"


def test_trials_on_different_comparisons_are_pointed_out(swept: dict[str, Any], tmp_path: Path) -> None:
    swept["trials"][0]["count"] = 90
    sweep_page.write_sweep_report(tmp_path / "report.html", swept)
    assert "not measured on the same comparisons (90 to 100)" in (tmp_path / "report.html").read_text()


def test_an_ablations_page_says_the_clearest_effect(ablated: dict[str, Any], tmp_path: Path) -> None:
    ablation.write_ablation_report(tmp_path / "report.html", ablated)
    page = (tmp_path / "report.html").read_text()
    assert "Without loss.center accuracy is 3.1 points lower (−5.0 to −1.2 points)" in page
    assert "c, seed 42 failed and is left out: not finite" in page and "One seed" in page
    assert_closed(page)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (effect(-0.1, -0.2, -0.01), "helps"),
        (effect(0.1, 0.01, 0.2), "hurts"),
        (effect(-0.1, -0.2, 0.0), "no clear effect"),
        (effect(-0.1, 0, 0) | {"interval": None}, "too few prompts"),
        (None, "not measured"),
    ],
)
def test_an_effect_is_clear_when_its_interval_leaves_zero_out(row: Any, words: str) -> None:
    assert ablation.reading(variant("x", row)) == words
