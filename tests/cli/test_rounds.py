"""``holdtrue rounds`` and ``holdtrue goldworld`` from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import optimising
import toy
from holdtrue.rundir import RunDir

Run = Callable[..., Any]
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "rounds.yaml"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe on the toy model, shortened, with its example rater beside it."""
    folder = optimising.write(tmp_path_factory.mktemp("rounds"))
    toy.write_pairs(folder / "pairs.jsonl", 40)
    (folder / "rater.py").write_text(
        "def better(prompts, firsts, seconds):\n"
        "    return [float(len(a) > len(b)) if len(a) != len(b) else 0.5 for a, b in zip(firsts, seconds)]\n",
        encoding="utf-8",
    )
    values = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    values["reward"]["model"]["path"] = values["rl"]["policy"]["path"] = str(folder / "policy")
    values["reward"]["data"]["train"] = [str(folder / "pairs.jsonl")]
    values["rl"]["data"]["prompts"] = [str(folder / "prompts.jsonl")]
    values["labels"]["function"] = f"{folder}/rater.py:better"
    (folder / "rounds.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "rounds.yaml"


SHORT = [
    part
    for value in (
        "reward.training.max_steps=2",
        "rl.training.max_steps=1",
        "rl.training.learning_rate=0.01",
        "rl.decoding.max_new_tokens=8",
        "rl.guard.calibration=64",
        "answers.prompts=4",
        "labels.accuracy=4",
        "labels.budget=4",
        "rounds=2",
    )
    for part in ("--set", value)
]


def test_rounds_run_from_the_recipe_and_a_second_time_is_no_work(
    holdtrue: Run, recipe: Path, tmp_path: Path
) -> None:
    done = holdtrue("rounds", recipe, "--output", tmp_path / "run", *SHORT, "--json")
    assert done.code == 0, done.err
    assert [row["round"] for row in done.value["rounds"]] == [1, 2]
    assert Path(done.value["policy"]).is_dir() and Path(done.value["model"]).is_dir()
    assert "round 2  policy optimisation" in done.err
    again = holdtrue("resume", tmp_path / "run", "--json")
    assert again.code == 0 and again.value == done.value
    shown = holdtrue("resume", tmp_path / "run")
    assert "refreshed" in shown.out and "report" in shown.out
    page = holdtrue("report", tmp_path / "run", "--json")
    assert page.code == 0 and Path(page.value["report"]).is_file()
    shift = holdtrue(
        "shift", tmp_path / "run" / "reward", *(tmp_path / "run").glob("round-*/answers.jsonl"), "--json"
    )
    assert set(shift.value["policies"]) == {"round 1", "round 2"}
    assert all(one["kl"] is not None for one in shift.value["policies"].values())


def test_rounds_that_cannot_begin_say_why(holdtrue: Run, recipe: Path, tmp_path: Path) -> None:
    assert "--output" in holdtrue("rounds", recipe).err
    missing = holdtrue("rounds", tmp_path / "none.yaml", "--output", tmp_path / "x")
    assert missing.code == 3 and "none.yaml" in missing.err
    odd = holdtrue("rounds", recipe, "--output", tmp_path / "x", "--set", "round=2")
    assert odd.code == 2 and "rounds" in odd.err
    nobody = holdtrue("rounds", recipe, "--output", tmp_path / "x", "--set", "labels.function=null")
    assert nobody.code == 2 and "nobody gives them" in nobody.err
    assert not RunDir(tmp_path / "x").path.exists()


def test_a_gold_world_that_cannot_begin_says_why(holdtrue: Run, tmp_path: Path) -> None:
    assert "--output" in holdtrue("goldworld").err
    unknown = holdtrue("goldworld", "--output", tmp_path / "x", "--arms", "retrain,metram")
    assert unknown.code == 2 and "metarm" in unknown.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    taken = holdtrue("goldworld", "--output", tmp_path / "full")
    assert taken.code == 2 and "choose another" in taken.err
