"""Models that compare two answers, through the whole command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import comparing
import toy
from holdtrue.rundir import RunDir

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("comparers")
    for family in comparing.KINDS:
        comparing.write(made / family, family)
    toy.write_pairs(made / "train.jsonl", 20)
    toy.write_pairs(made / "eval.jsonl", 10, seed=1)
    return made


def line(folder: Path, family: str, output: Path, *extra: str) -> list[object]:
    files: list[object] = ["train", folder / "train.jsonl", "--eval", folder / "eval.jsonl"]
    files += ["--model", folder / family, "-o", output, "--set", f"model.kind={comparing.KINDS[family]}"]
    for setting in ("training.max_steps=3", *extra):
        files += ["--set", setting]
    return files


@pytest.mark.parametrize("family", comparing.KINDS)
def test_every_verb_takes_a_model_that_compares(
    holdtrue: Run, folder: Path, tmp_path: Path, family: str
) -> None:
    run = tmp_path / "run"
    done = holdtrue(*line(folder, family, run), "--json")
    assert done.code == 0
    result = done.value["evaluation"]
    assert result["count"] == 10 and 0 <= result["position_consistency"] <= 1
    info = RunDir(run).info()
    assert info["model"]["kind"]["kind"] == comparing.KINDS[family]
    assert info["data"]["train"]["comparisons"] == 20  # both orders of one are one
    assert "Same in both orders" in (run / "report.html").read_text()

    again = holdtrue("evaluate", run, folder / "eval.jsonl", "--json").value
    assert {key: again[key] for key in ("accuracy", "loss", "position_consistency")} == {
        key: result[key] for key in ("accuracy", "loss", "position_consistency")
    }
    assert "have the same winner in both orders" in holdtrue("evaluate", run, folder / "eval.jsonl").out
    verified = holdtrue("verify", run, "--json")
    assert verified.code == 0, verified.out
    names = {check["name"] for check in verified.value["checks"]}
    assert {"finite", "symmetric in the order", "place", "saved = reloaded", "weights"} <= names
    assert ("replies" in names) == ("ours = plain transformers" in names) == (family != "bert")
    assert holdtrue("report", run).code == 0
    planned = holdtrue("plan", *line(folder, family, run)[1:], "--json")
    assert planned.code == 2  # plan has no --output
    planned = holdtrue("train", *line(folder, family, tmp_path / "planned")[1:], "--dry-run", "--json")
    assert planned.code == 0 and planned.value["example"]["tokens"] > 10


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    holdtrue: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdtrue.errors import Interrupted
    from holdtrue.job import start, train
    from holdtrue.settings import build

    values = {
        "data": {"train": [str(folder / "train.jsonl")], "eval": [str(folder / "eval.jsonl")]},
        "model": {"path": str(folder / "bert"), "kind": "pair_ranker"},
        "training": {"max_steps": 3},
    }
    whole, stopped = start(build(values), tmp_path / "whole"), start(build(values), tmp_path / "stopped")
    train(whole)
    with pytest.raises(Interrupted):
        train(stopped, stop=lambda: True)
    assert holdtrue("resume", stopped.path).code == 0
    assert whole.info()["model_hash"] == stopped.info()["model_hash"]


@pytest.mark.parametrize("ranking", ["gap", "win_rate", "knockout"])
def test_score_ranks_the_answers_of_a_row(holdtrue: Run, folder: Path, tmp_path: Path, ranking: str) -> None:
    run, data, output = tmp_path / "run", tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    assert holdtrue(*line(folder, "bert", run)).code == 0
    rows = [
        {"prompt": "tell about rain ?", "completions": ["kind", "rude", "so cold", "warm"]},
        {"prompt": "tell about rain ?", "completions": ["kind"]},
        {"prompt": "tell about bees ?", "completions": ["kind", "so " * 200, "rude"]},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = holdtrue("score", run, data, "-o", output, "--ranking", ranking, "--json")
    assert done.code == 0
    four, one, three = (json.loads(text) for text in output.read_text().splitlines())
    rewards = four["rewards"]
    if ranking == "gap":
        assert sum(rewards) == pytest.approx(0, abs=1e-6)
    elif ranking == "win_rate":
        assert sum(rewards) == pytest.approx(2)  # six pairs share a win each, three others per answer
    else:
        assert sorted(rewards) == [0, 0, 1, 2]
    assert one["rewards"] is None and one["reward_reason"] == "nothing to compare it with"
    assert three["reward_reason"] == "longer than max_length"
    if ranking != "knockout":
        assert three["rewards"][1] is None and three["rewards"][0] == pytest.approx(
            -three["rewards"][2], abs=1
        )
    other = {"gap": "win_rate", "win_rate": "knockout", "knockout": "gap"}[ranking]
    mixed = holdtrue("score", run, data, "-o", output, "--ranking", other, "--json")
    assert mixed.code == 3 and "not written by this model" in mixed.error["message"]


def test_a_ranking_is_refused_where_answers_are_scored_one_by_one(
    holdtrue: Run, toy_run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    done = holdtrue(
        "score", toy_run, toy_folder / "eval.jsonl", "-o", tmp_path / "o", "--ranking", "win_rate", "--json"
    )
    assert done.code == 2 and "for models that compare" in done.error["message"]


@pytest.mark.parametrize(
    ("family", "setting", "message"),
    [
        ("bert", "loss={kind: bradley_terry, center: 0.1}", "reads gap and rewards"),
        ("bert", "loss=all_pairs", "reads rewards"),
        ("llama", "loss=token_bradley_terry", "reads values"),
        ("llama", "data.truncation=left", "with preference_lm it is drop or error"),
        ("bert", "model.lora={r: 4}", "model.lora is not for pair_ranker"),
        ("llama", "model.kind=pair_ranker", "needs an encoder"),
        ("bert", "model.kind=preference_lm", "is an encoder, which does not say what comes next"),
        ("llama", "model.kind={kind: preference_lm, tokens: [A, banana]}", "'banana' is unknown"),
        ("llama", "model.kind={kind: preference_lm, template: hello}", "{context}, {first} and {second}"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(
    holdtrue: Run, folder: Path, tmp_path: Path, family: str, setting: str, message: str
) -> None:
    done = holdtrue(*line(folder, family, tmp_path / "run", setting), "--json")
    assert done.code in (2, 3) and message in done.error["message"]


@pytest.mark.parametrize("loss", ["hinge", "log_exp", "rao_kupper", "davidson"])
def test_pairwise_losses_train_models_that_compare(
    holdtrue: Run, folder: Path, tmp_path: Path, loss: str
) -> None:
    assert holdtrue(*line(folder, "bert", tmp_path / "run", f"loss={loss}")).code == 0


def test_pairs_that_do_not_fit_are_listed(holdtrue: Run, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = folder / "some_long.jsonl"
    long = {"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}
    toy.write_pairs(data, 0, rows=[*toy.pairs(20), long])
    arguments = line(folder, "t5", run)
    arguments[1] = data
    done = holdtrue(*arguments, "--json")
    assert done.code == 0 and done.value["dropped"]["train"] == {"longer than max_length": 1}
    (row,) = [json.loads(text) for text in RunDir(run).dropped_file.read_text().splitlines()]
    assert (row["line"], row["reason"]) == (21, "longer than max_length")


def test_a_changed_head_fails_verify(holdtrue: Run, folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    run = tmp_path / "run"
    assert holdtrue(*line(folder, "bert", run)).code == 0
    head = run / "model" / "head.safetensors"
    weights = load_file(head)
    save_file({name: weight * 0 for name, weight in weights.items()}, head)
    done = holdtrue("verify", run, "--json")
    failed = {check["name"] for check in done.value["checks"] if check["status"] == "fail"}
    assert done.code == 4 and failed == {"spread", "weights"}


@pytest.mark.parametrize(("family", "pairs", "epochs"), [("llama", 60, 8), ("t5", 300, 6), ("bert", 300, 6)])
def test_it_learns_which_words_are_better(
    holdtrue: Run, folder: Path, tmp_path: Path, family: str, pairs: int, epochs: int
) -> None:
    data = toy.write_pairs(tmp_path / "train.jsonl", pairs)
    arguments = line(
        folder,
        family,
        tmp_path / "run",
        "training.max_steps=-1",
        "training.learning_rate=0.003",
        f"training.num_train_epochs={epochs}",
    )
    arguments[1], arguments[3] = data, toy.write_pairs(tmp_path / "eval.jsonl", 40, seed=1)
    result = holdtrue(*arguments, "--json").value["evaluation"]
    assert result["accuracy"] > 0.9 and result["position_consistency"] > 0.7
