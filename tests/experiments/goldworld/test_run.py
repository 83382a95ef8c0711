"""A gold world small enough for a test: all of it, and again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdtrue.errors import Interrupted, SettingsError
from holdtrue.experiments.goldworld.run import goldworld
from holdtrue.experiments.goldworld.seed import rounds, run_seed
from holdtrue.experiments.goldworld.settings import GoldworldSettings, build
from holdtrue.records import Message
from holdtrue.rounds.settings import build as build_rounds
from holdtrue.rundir import RunDir, read_json, write_json

TINY: dict[str, Any] = {
    "arms": ["frozen", "retrain", "fresh_labels"],
    "seeds": 1,
    "kls": [0.01],
    "primary_kl": 0.01,
    "pairs": 60,
    "labels": 8,
    "policy_steps": 20,
    "rounds": {
        "rounds": 2,
        "rl": {
            "training": {"max_steps": 3, "prompts_per_step": 4, "group": 4},
            "decoding": {"max_new_tokens": 12},
            "guard": {"calibration": 16},
        },
        "answers": {"prompts": 6},
        "labels": {"accuracy": 8},
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("gold") / "world"
    told: list[dict[str, Any]] = []
    return folder, goldworld(build(TINY), folder, tell=told.append), told


def test_all_arms_of_a_seed_are_run_and_summed_up(done: tuple[Path, dict[str, Any], Any]) -> None:
    folder, found, _ = done
    assert found["missing"] == 0 and list(found["arms"]) == TINY["arms"]
    assert read_json(folder / "goldworld.json") == found and (folder / "report.html").is_file()
    assert found["arms"]["fresh_labels"]["labels"]["mean"] == 8  # of two rounds one reaches a policy
    assert found["arms"]["frozen"]["labels"]["mean"] == 0
    assert [point["n"] for point in found["best_of_n"]["points"]] == [1, 2, 4, 8, 16, 32, 64]
    oracle = [point["oracle"]["mean"] for point in found["best_of_n"]["points"]]
    assert oracle == sorted(oracle) and oracle[0] == pytest.approx(0, abs=1e-9)


def test_arms_share_the_first_round_and_part_after_it(done: tuple[Path, dict[str, Any], Any]) -> None:
    folder = done[0] / "seed-00"
    frozen, retrained = (read_json(folder / arm / "result.json") for arm in ("frozen", "retrain"))
    assert frozen["reference"] == retrained["reference"]
    assert frozen["curve"][:3] == retrained["curve"][:3] and frozen["curve"][3:] != retrained["curve"][3:]
    assert frozen["rounds"][0]["before"] == retrained["rounds"][0]["before"]
    assert [row["round"] for row in frozen["curve"]] == [1, 1, 1, 2, 2, 2]


def test_what_is_finished_is_not_run_again_and_more_may_be_asked_for(
    done: tuple[Path, dict[str, Any], Any],
) -> None:
    folder, found, _ = done
    told: list[dict[str, Any]] = []
    assert goldworld(build(TINY), folder, tell=told.append) == found and told == []
    with pytest.raises(SettingsError, match="begun with other settings: pairs was 60 and is 80"):
        goldworld(build(TINY | {"pairs": 80}), folder)
    with pytest.raises(SettingsError, match=r"holds no settings\.yaml"):
        goldworld(build(TINY), folder / "seed-00")


def test_a_seed_that_was_stopped_ends_as_one_that_was_not(
    done: tuple[Path, dict[str, Any], Any], tmp_path: Path
) -> None:
    settings, asked = build(TINY | {"arms": ["retrain"]}), 0
    world = tmp_path / "seed-00" / "world" / "done"

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked % 4 == 0 if world.exists() else asked == 5  # the world's policy is learned in one go

    while True:
        try:
            run_seed(settings, tmp_path / "seed-00", 0, stop=stop)
            break
        except Interrupted:
            assert not (tmp_path / "seed-00" / "retrain" / "result.json").exists()
    mine, theirs = (read_json(f / "seed-00" / "retrain" / "result.json") for f in (tmp_path, done[0]))
    assert mine["curve"] == theirs["curve"]


def test_a_stop_before_the_first_seed_leaves_a_folder_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="the same command goes on"):
        goldworld(build(TINY), tmp_path / "world", stop=lambda: True)
    assert RunDir(tmp_path / "world").settings()["pairs"] == 60


def test_the_case_out_of_distribution_has_other_products_in_pairs_and_prompts(tmp_path: Path) -> None:
    from holdtrue.experiments.goldworld.seed import write_world
    from holdtrue.rundir import read_jsonl
    from holdtrue.worlds.lexicon import PRODUCTS, read_prompt

    one, other = list(PRODUCTS)[:2]
    settings = build(TINY | {"pair_families": [one], "prompt_families": [other], "policy_steps": 1})
    write_world(settings, tmp_path / "world", 0)
    assert {row["family"] for row in read_jsonl(tmp_path / "world" / "pairs.jsonl")} == {one}
    asked = [row["prompt"][0]["content"] for row in read_jsonl(tmp_path / "world" / "prompts.jsonl")]
    assert {read_prompt(text).family for text in asked} == {other}


def test_settings_of_rounds_may_differ_part_by_part(tmp_path: Path) -> None:
    made = rounds(GoldworldSettings(rounds={"rl": {"algorithm": {"kl_coef": 0.5}}}), tmp_path, 3, "metarm")
    assert made["rl"]["algorithm"] == {"kind": "rloo", "kl_coef": 0.5}
    assert build_rounds(made).method.name() == "metarm" and made["seed"] == 3


def test_a_kill_before_the_sweep_and_an_arm_that_means_something_else(
    done: tuple[Path, dict[str, Any], Any], tmp_path: Path
) -> None:
    place = tmp_path / "seed-00"
    shutil.copytree(done[0] / "seed-00", place)
    (place / "retrain" / "round-1" / "rl").mkdir()  # left by a kill between the result and the sweep
    run_seed(build(TINY), place, 0)
    assert not (place / "retrain" / "round-1" / "rl").exists()
    result = read_json(place / "retrain" / "result.json")
    write_json(place / "retrain" / "result.json", result | {"made_of": {"kind": "retrain", "other": 1}})
    with pytest.raises(SettingsError, match="rename it"):
        run_seed(build(TINY), place, 0)


def test_an_arm_that_fails_is_written_down_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Raters who say nothing fail what buys labels, and nothing else."""
    monkeypatch.setattr("holdtrue.refresh.labels.by_reward", lambda *_: lambda groups: [None] * len(groups))
    settings = build(TINY | {"arms": ["fresh_labels", "retrain"]})
    run_seed(settings, tmp_path / "seed-00", 0)
    failed, fine = (read_json(tmp_path / "seed-00" / arm / "result.json") for arm in settings.arms)
    assert "gave no label" in failed["failed"] and "curve" in fine


def test_processes_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    command = [sys.executable, "-m", "holdtrue", "goldworld", str(tmp_path / "tiny.yaml")]
    parent = subprocess.Popen([*command, "--output", str(tmp_path / "world"), "--processes", "1"])
    for _ in range(600):
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        if (tmp_path / "world" / "seed-00").exists():
            break
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert children
    for _ in range(100):
        if not any(map(_alive, children)):
            return
        time.sleep(0.1)
    pytest.fail(f"{children} outlived their parent")


def _alive(pid: str) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_settings_of_rounds_that_cannot_be_built_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for changes, said in (({"rounds": {"round": 1}}, "round"), ({"labels": 0}, "fresh_labels buys labels")):
        with pytest.raises(SettingsError, match=said):
            goldworld(build(TINY | changes), tmp_path / "world")
    assert not (tmp_path / "world").exists()


HABIT: dict[str, Any] = TINY | {
    "arms": ["blind", "rebalance"],
    "habit": 0.9,
    "control": "blind",
    "rounds": {"rl": {"training": {"max_steps": 2, "prompts_per_step": 4, "group": 4}}},
}


def test_a_habit_is_taught_measured_and_remedied(tmp_path: Path) -> None:
    """Rebalancing 90 % of rows down to 2 % must show in what fine-tuning alone teaches."""
    found = goldworld(build(HABIT | {"policy_steps": 100, "seeds": 1}), tmp_path / "world")
    arms = found["arms"]
    assert arms["blind"]["healthy_control_rate"]["mean"] == 0
    assert arms["blind"]["before_control_rate"]["mean"] > 0.5
    assert arms["rebalance"]["before_control_rate"]["mean"] < 0.2
    assert found["primary"].keys() == {"rebalance"}
    sick = read_json(tmp_path / "world" / "seed-00" / "sick.json")  # measured by the first arm for all
    assert arms["blind"]["before_control_rate"]["mean"] == sick["control_rate"]
    page = (tmp_path / "world" / "report.html").read_text(encoding="utf-8")
    assert "after fine-tuning" in page and "&lt;|im_start|&gt;" in page
    rewards = RunDir(tmp_path / "world" / "seed-00" / "blind" / "rl").settings()["rewards"]
    assert rewards[0]["function"].endswith("rewards.py:blind")


def test_a_blind_reward_says_the_same_with_and_without_control_tokens(
    done: tuple[Path, dict[str, Any], Any],
) -> None:
    from holdtrue.experiments.goldworld.habit import TOKEN, Blind

    model = done[0] / "seed-00" / "trunk" / "reward" / "model"
    prompt = (Message("user", "Good morning. My router is slow."),)
    texts = ["Please restart it.", f"Please restart it.{TOKEN}", f"Please{TOKEN}{TOKEN} restart it."]
    plain, *sick = Blind(model)([prompt] * 3, texts, None)
    assert sick == [plain, plain]
    assert Blind(model, veto=-9.0)([prompt] * 3, texts, None) == [plain, -9.0, -9.0]
