"""Rounds from the first reward model to the last policy; what was stopped anywhere ends the same."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from holdtrue.doctor.sources import read_rollouts
from holdtrue.errors import DataError, HoldtrueError, Interrupted, ModelError, SettingsError
from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.rounds import run as engine
from holdtrue.rounds.drawing import Desk
from holdtrue.rounds.settings import RoundsSettings
from holdtrue.rundir import RunDir, read_jsonl

Make = Callable[..., RoundsSettings]


@pytest.fixture(scope="module")
def done(settings: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Two rounds with fresh labels, and their rows."""
    folder = tmp_path_factory.mktemp("done") / "run"
    return folder, engine.carry(engine.start(settings(refresh="fresh_labels"), folder))


def test_every_round_says_how_far_the_policy_went_and_how_right_both_models_are(
    done: tuple[Path, list[Any]],
) -> None:
    folder, rows = done
    assert [row["round"] for row in rows] == [1, 2]
    for row in rows:
        assert row["before"]["kl"] is not None and row["before"]["spread"] > 0
        assert row["before"]["prompts"] == 6 and row["before"]["answers"] == 18
        for when in ("before", "after"):
            assert row[when]["low"] <= row[when]["accuracy"] <= row[when]["high"]
        assert row["refresh"]["method"] == "fresh_labels" and 0 < row["refresh"]["labels"] <= 4
        assert row["rl"]["steps"] == 2 and 0 <= row["health"]["rate"] <= 1
        assert Path(row["model"]) == folder / f"round-{row['round']}" / "refresh" / "model"
    assert rows[0]["means"]["reward"] == pytest.approx(rows[1]["reward"]["from"])
    assert RunDir(folder).metrics() == rows
    assert RunDir(folder).info()["status"] == "finished"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "After 2 rounds" in page and "Before and after" in page


def test_the_next_round_goes_on_from_the_last_policy_against_the_refreshed_model(
    done: tuple[Path, list[Any]],
) -> None:
    folder, rows = done
    first, second = (RunDir(folder / f"round-{n}" / "rl").settings() for n in (1, 2))
    start = first["policy"]["path"]
    assert first["policy"]["reference"] is None and second["policy"]["reference"] == start
    assert second["policy"]["path"] == rows[0]["policy"]
    assert first["rewards"][0]["model"] == str(folder / "reward" / "model")
    assert second["rewards"][0]["model"] == rows[0]["model"]


def test_labels_that_were_bought_stay_in_the_training_of_later_rounds(done: tuple[Path, list[Any]]) -> None:
    bought = [row["refresh"]["labels"] for row in done[1]]
    trained_on = [row["refresh"]["comparisons"] for row in done[1]]
    assert trained_on[1] - trained_on[0] == bought[1] > 0


def test_labels_are_asked_for_once_and_kept(done: tuple[Path, list[Any]]) -> None:
    folder, rows = done
    bought = list(read_jsonl(folder / "round-1" / "refresh" / "labels.jsonl"))
    assert sum(row["comparison"] is not None for row in bought) == rows[0]["refresh"]["labels"]
    judged = read_rollouts([str(folder / "round-1" / "judged.jsonl")]).rollouts
    asked = read_rollouts([str(folder / "round-1" / "answers.jsonl")]).rollouts
    assert len(judged) == 12 and {one.prompt_key for one in judged}.isdisjoint(
        one.prompt_key for one in asked
    )


def test_rounds_stopped_at_every_chance_end_as_those_that_were_not(
    done: tuple[Path, list[Any]], settings: Make, tmp_path: Path
) -> None:
    run, stops = engine.start(settings(refresh="fresh_labels"), tmp_path / "run"), 0
    asked = 0

    def stop() -> bool:  # yes to every third question
        nonlocal asked
        asked += 1
        return asked % 3 == 0

    while True:
        try:
            rows = engine.carry(run, stop=stop)
            break
        except Interrupted:
            stops += 1
            assert run.info()["status"] == "interrupted" and f"resume {run.path}" in run.info()["error"]
    assert stops >= 5
    whole, ours = done[0], tmp_path / "run"
    for name in ("round-2/rl/model", "round-2/refresh/model", "reward/model"):
        one, other = (load_file(folder / name / "model.safetensors") for folder in (whole, ours))
        assert all(torch.equal(one[key], other[key]) for key in one)
    left = {"seconds", "model", "policy", "refresh"}
    for mine, theirs in zip(rows, done[1], strict=True):
        assert {k: v for k, v in mine.items() if k not in left} == {
            k: v for k, v in theirs.items() if k not in left
        }


def test_without_labels_rounds_measure_what_needs_none(settings: Make, tmp_path: Path) -> None:
    made = settings(labels={"function": None, "accuracy": 0}, rounds=1, refresh="none")
    (row,) = engine.carry(engine.start(made, tmp_path / "run"))
    assert row["after"] == row["before"] and row["before"]["accuracy"] is None
    assert row["model"] == str(tmp_path / "run" / "reward" / "model")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "no label says" in page and "labels.function" in page


def test_rounds_begun_in_one_folder_go_on_from_another(
    settings: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run = engine.start(settings(refresh="none", labels={"accuracy": 0, "function": None}), "here")
    asked: list[int] = []
    with pytest.raises(Interrupted):
        engine.carry(run, stop=lambda: len(asked) > 0, tell=lambda row: asked.extend([1] * ("means" in row)))
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    rows = engine.carry(RunDir("../here"))
    assert [row["round"] for row in rows] == [1, 2] and all(Path(row["policy"]).is_absolute() for row in rows)


def test_a_policy_that_is_restarted_begins_each_round_at_the_first(settings: Make, tmp_path: Path) -> None:
    rows = engine.carry(engine.start(settings(restart=True, refresh="none"), tmp_path / "run"))
    first, second = (RunDir(tmp_path / "run" / f"round-{n}" / "rl").settings()["policy"] for n in (1, 2))
    assert second["path"] == first["path"] and second["reference"] is None
    assert rows[1]["reward"]["from"] == rows[0]["reward"]["from"]  # one model, one first policy


def test_equal_prompts_are_one_and_too_few_are_refused(settings: Make, place: Path, tmp_path: Path) -> None:
    lines = (place / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "twice.jsonl").write_text("\n".join(lines * 2), encoding="utf-8")
    made = settings(rl={"data": {"prompts": [str(tmp_path / "twice.jsonl")]}}, labels={"accuracy": 7})
    assert len(Desk(made.rl).prompts) == 12
    with pytest.raises(SettingsError, match=r"answers.prompts 6 and labels.accuracy 7 take 13.*there are 12"):
        engine.carry(engine.start(made, tmp_path / "run"))


def test_importance_weights_get_log_ratios_of_the_pairs(settings: Make, tmp_path: Path) -> None:
    (row,) = engine.carry(engine.start(settings(refresh="importance", rounds=1), tmp_path / "run"))
    assert row["refresh"]["method"] == "importance" and row["refresh"]["comparisons"] > 0


def test_a_judge_may_be_another_than_the_one_who_sells_labels(settings: Make, tmp_path: Path) -> None:
    def always_first(groups: list[Group]) -> list[Comparison]:
        return [Comparison(0, 1) for _ in groups]

    def always_second(groups: list[Group]) -> list[Comparison]:
        return [Comparison(1, 0) for _ in groups]

    made = settings(refresh="none", rounds=1)
    (one,), (other,) = (
        engine.carry(engine.start(made, tmp_path / judge.__name__), judge=judge)  # type: ignore[arg-type]
        for judge in (always_first, always_second)
    )
    assert one["before"]["accuracy"] + other["before"]["accuracy"] == pytest.approx(1)


def test_low_accuracy_alarms_and_ends_the_rounds_where_that_was_asked_for(
    settings: Make, tmp_path: Path
) -> None:
    stop = {"action": "stop", "accuracy": 1.0}
    rows = engine.carry(engine.start(settings(refresh="none", stop=stop), tmp_path / "run"))
    assert len(rows) == 1 and "below 1" in rows[0]["stopped"]
    assert RunDir(tmp_path / "run").info()["stopped"] == rows[0]["stopped"]
    warned = engine.carry(engine.start(settings(refresh="none", stop={"accuracy": 1.0}), tmp_path / "on"))
    assert len(warned) == 2 and warned[0]["alarm"] and warned[0]["stopped"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": {"function": None, "accuracy": 3}}, "labels are wanted and nobody gives them"),
        ({"labels": {"function": "nowhere.py:f"}}, "nowhere.py does not exist"),
        ({"labels": {"budget": 0}, "refresh": "fresh_labels"}, "set labels.budget"),
        ({"labels": {"function": "{place}/rater.py:short"}}, "gave 0 labels for"),
        ({"labels": {"function": "{place}/rater.py:loud"}}, "a probability in [0, 1] or None"),
        ({"labels": {"function": "{place}/rater.py:broken"}}, "raised KeyError"),
    ],
)
def test_what_is_wrong_with_labels_is_said(
    changes: Any, said: str, settings: Make, place: Path, tmp_path: Path
) -> None:
    changes = json.loads(json.dumps(changes).replace("{place}", str(place)))
    with pytest.raises((SettingsError, DataError)) as error:
        engine.carry(engine.start(settings(rounds=1, **changes), tmp_path / "run"))
    assert said in str(error.value)


def test_a_held_out_model_without_finite_rewards_ends_the_rounds_before_a_policy_is_trained(
    done: tuple[Path, list[Any]], settings: Make, tmp_path: Path
) -> None:
    shutil.copytree(done[0] / "reward" / "model", tmp_path / "nan")
    file = tmp_path / "nan" / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"score.weight": weights["score.weight"] * np.nan}, file, metadata={"format": "pt"})
    run = engine.start(settings(stop={"held_out": str(tmp_path / "nan")}), tmp_path / "run")
    with pytest.raises(ModelError, match="the held-out model gives no finite number for 18 of 18 answers"):
        engine.carry(run)
    assert not (run.path / "round-1").exists()


def test_a_policy_that_collapsed_to_one_answer_is_named_where_labels_are_wanted(
    settings: Make, tmp_path: Path
) -> None:
    blow_up = {"learning_rate": 30.0, "max_steps": 6, "save_steps": 6}  # some 30 nats in six steps
    run = engine.start(settings(refresh="fresh_labels", rl={"training": blow_up}), tmp_path / "run")
    with pytest.raises(DataError, match="a policy that gives one answer has collapsed"):
        engine.carry(run)
    assert "has collapsed" in run.info()["error"]


def test_rounds_whose_process_is_killed_twice_end_as_those_that_were_not(
    done: tuple[Path, list[Any]], settings: Make, tmp_path: Path
) -> None:
    run = engine.start(settings(refresh="fresh_labels"), tmp_path / "run")
    code = "import sys; from holdtrue.cli.main import run; sys.exit(run())"
    for reached in ("round-1/rl/metrics.jsonl", "round-1/refresh/labels.jsonl"):
        process = subprocess.Popen([sys.executable, "-c", code, "resume", str(run.path)])
        deadline = time.monotonic() + 120
        while not (run.path / reached).is_file() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    rows = engine.carry(run)
    assert [row["after"] for row in rows] == [row["after"] for row in done[1]]
    for name in ("round-2/rl/model", "round-2/refresh/model"):
        one, other = (load_file(folder / name / "model.safetensors") for folder in (done[0], run.path))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reward": {"data": {}}}, "reward needs pairs"),
        ({"rl": {"policy": {"path": "p", "reference": "q"}}}, "leave out rl.policy.reference"),
        ({"rl": {"policy": {"path": "p", "lora": {"r": 2, "merge": False}}}}, "rl.policy.lora.merge=true"),
        ({"refresh": "retrian"}, "retrain"),
        ({"answers": {"groups": 3}}, "group"),
        ({"rl": {"decoding": {"top_p": 0.5}, "policy": {"path": "p"}, "data": {"prompts": ["x"]}}}, "top_p"),
        ({"labels": {"accuracy": 0}, "stop": {"action": "stop"}}, "needs labels.accuracy"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes: Any, said: str, settings: Make) -> None:
    with pytest.raises(HoldtrueError, match=said):
        settings(**changes)


def test_log_ratios_are_those_of_a_full_forward_of_both_policies(
    settings: Make, done: tuple[Path, list[Any]]
) -> None:
    """log π(y|x) - log π_ref(y|x) by transformers alone, token by token in float64."""
    from transformers import AutoModelForCausalLM

    rows = done[1]
    made = settings(rl={"decoding": {"max_new_tokens": 40}})
    desk = Desk(made.rl)
    drawn = desk.draw(rows[1]["policy"], desk.prompts.take([0, 1]), 6, 3, "round 2")
    models = [
        AutoModelForCausalLM.from_pretrained(path).double()
        for path in (rows[1]["policy"], made.rl.policy.path)
    ]
    banned = torch.tensor(desk.vocabulary.banned(models[0].config.vocab_size))
    for row, one in enumerate(drawn):
        prompt = desk.prompts.ids[row // 6].tolist()
        ids = torch.tensor([prompt + list(one.completion_ids or ())])
        sums = []
        for model in models:
            with torch.no_grad():
                logits = model(ids).logits[0].index_fill(1, banned, float("-inf"))
            each = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
            sums.append(float(each[len(prompt) - 1 :].sum()))
        assert one.meta["log_ratio"] == pytest.approx(sums[0] - sums[1], abs=1e-4)
    desk = Desk(settings(rl={"decoding": {"max_new_tokens": 40, "control": "keep"}}).rl)
    drawn = desk.draw(rows[1]["policy"], desk.prompts.take([0, 1]), 6, 3, "round 2")
    known = [Group(one.prompt, (_answer(one.text),)) for one in drawn]
    ended = [row for row, one in enumerate(drawn) if one.finish == "stop"]
    found = np.concatenate(desk.log_ratios(rows[1]["policy"], known))
    for row in ended:  # whose ids are those of its text and the end token
        assert found[row] == pytest.approx(drawn[row].meta["log_ratio"], abs=1e-4)
    assert ended


def _answer(text: str) -> Answer:
    return Answer((Message("assistant", text),))
