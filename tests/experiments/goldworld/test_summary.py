"""What results of arms and seeds add up to, from results written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdtrue.errors import SettingsError
from holdtrue.experiments.goldworld.settings import ARMS, build
from holdtrue.experiments.goldworld.summary import summarise
from holdtrue.report.goldworld import headline, write_goldworld_report
from holdtrue.rundir import write_json


def result(height: float) -> dict[str, Any]:
    """Gold that rises with KL to ``height`` at 6, on a way of ten steps."""
    curve = [{"kl": float(k), "gold": height * k / 6, "proxy": 2.0 * k} for k in range(11)]
    shift = {"kl": 9.0, "relative_spread": 0.5, "difference": 0.5, "accuracy": 0.6, "mahalanobis": None}
    one = {"round": 1, "gold": height, "before": shift, "after": {"accuracy": 0.7}, "seconds": 1.0}
    return {
        "made_of": {},
        "curve": curve,
        "rounds": [one | {"health": {"rate": 0.0}, "refresh": {"labels": 5}}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three seeds of retrain, and two of an arm that is 0.5 and 0.7 better."""
    heights = {"retrain": [1.0, 2.0, 3.0], "metarm": [1.5, 2.7]}
    for arm, values in heights.items():
        for seed, height in enumerate(values):
            place = tmp_path / f"seed-{seed:02d}" / arm
            place.mkdir(parents=True)
            write_json(place / "result.json", result(height))
    return tmp_path


def test_differences_are_taken_seed_by_seed_with_students_interval(folder: Path):
    settings = build({"arms": ["retrain", "metarm"], "seeds": 3})
    found = summarise(settings, folder)
    assert found["arms"]["retrain"]["gold_at_kl_6"]["mean"] == pytest.approx(2.0)
    primary = found["primary"]["metarm"]
    assert primary["mean"] == pytest.approx(0.6) and primary["seeds"] == 2
    half = 12.7062 * 0.1  # t of one degree of freedom times s/√n, s = 0.2/√2
    assert primary["interval"] == pytest.approx([0.6 - half, 0.6 + half], rel=1e-4)
    assert found["missing"] == 1 and found["arms"]["metarm"]["seeds"] == [0, 1]
    assert found["arms"]["retrain"]["final_gold"]["mean"] == pytest.approx(2.0)
    assert found["arms"]["retrain"]["labels"]["mean"] == 0  # those of the last round reach no policy
    assert found["best_of_n"] is None


def test_an_arm_whose_interval_is_above_nothing_is_named_and_no_other(folder: Path):
    found = summarise(build({"arms": ["retrain", "metarm"], "seeds": 3}), folder)
    assert headline(found) == "At a KL of 6 nats no arm is shown to keep more gold than retrain."
    found["primary"]["metarm"]["interval"] = [0.2, 1.0]
    assert headline(found) == ("At a KL of 6 nats more gold than retrain: metarm (+0.60 [+0.20, +1.00]).")
    found["primary"]["metarm"]["interval"] = [-1.0, -0.2]
    assert headline(found).endswith("Less: metarm.")


def test_the_page_shows_every_arm_and_says_what_is_missing(folder: Path, tmp_path: Path):
    found = summarise(build({"arms": ["retrain", "metarm"], "seeds": 3}), folder)
    write_goldworld_report(tmp_path / "report.html", found)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<code>metarm</code>" in page and "1 run of an arm and a seed" in page
    assert "+0.60 [-0.67, +1.87]" in page


def test_an_arm_that_failed_is_named_with_its_reason_and_not_missing(folder: Path, tmp_path: Path):
    place = folder / "seed-02" / "metarm"
    place.mkdir(parents=True)
    write_json(place / "result.json", {"made_of": {}, "failed": "no two answers differ"})
    found = summarise(build({"arms": ["retrain", "metarm"], "seeds": 3}), folder)
    assert found["missing"] == 0 and found["arms"]["metarm"]["seeds"] == [0, 1]
    write_goldworld_report(tmp_path / "report.html", found)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "metarm failed with seed 2 and is left out there: no two answers differ" in page


def test_nothing_finished_is_an_empty_page_and_no_error(tmp_path: Path):
    found = summarise(build({"seeds": 2}), tmp_path)
    write_goldworld_report(tmp_path / "report.html", found)
    assert found["missing"] == 10 and headline(found).startswith("Too few seeds")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"arms": ["retrian"]}, "unknown arm 'retrian'; did you mean 'retrain'?"),
        ({"arms": ["metarm"]}, "the control retrain is not among the arms"),
        ({"primary_kl": 5}, "primary_kl 5 is not among kls"),
        ({"own_arms": {"x": {"kind": "metarm", "sgn": 1}}, "arms": ["x", "retrain"]}, "arm x"),
        ({"own_arms": {"metarm": {"kind": "joint"}}}, "needs another name"),
        ({"own_arms": {"trunk": {"kind": "joint"}}}, "needs another name"),
        ({"own_arms": {"../x": {"kind": "joint"}}}, "needs another name"),
        ({"arms": ["retrain", "frozen", "frozen"]}, "arm frozen is given twice"),
        ({"seed": 1}, "seeds"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(values: dict[str, Any], said: str):
    with pytest.raises(SettingsError) as error:
        build(values)
    assert said in str(error.value)


def test_every_arm_with_a_name_is_a_refresh():
    build({"arms": list(ARMS)})
