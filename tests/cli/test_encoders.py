"""Every verb on an encoder, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoders import write
from holdtrue import job
from holdtrue.errors import Interrupted
from holdtrue.rundir import RunDir
from toy import write_pairs

Run = Callable[..., Any]


@pytest.mark.parametrize("pool", ["auto", "mean"])
def test_an_encoder_is_planned_trained_resumed_scored_evaluated_verified_and_reported(
    pool: str, tmp_path: Path, holdtrue: Run
) -> None:
    data = [
        write_pairs(tmp_path / "train.jsonl", 30),
        "--eval",
        write_pairs(tmp_path / "eval.jsonl", 8, seed=1),
    ]
    options = ["--model", write(tmp_path / "bert", "bert"), "--set", f"model.pool={pool}"]
    options += ["--set", "training.max_steps=3", "--set", "training.learning_rate=1e-3", "--json"]
    plan = holdtrue("plan", data[0], *options).value
    assert plan["steps"] == 3 and plan["model"]["chat_template"] == "pair"
    assert plan["example"]["text"].startswith("<cls>tell about") and plan["example"]["read_token"] is None
    told = holdtrue("plan", data[0], *options[:-1]).out
    assert "read: " in told and ("layout    end to end" in told) == (pool == "mean")

    whole = holdtrue("train", *data, *options, "--output", tmp_path / "whole")
    assert whole.code == 0, whole.err
    run = job.start(_settings(tmp_path / "whole"), tmp_path / "parts")
    with pytest.raises(Interrupted):
        job.train(run, stop=lambda: True)
    parts = holdtrue("resume", tmp_path / "parts", "--json").value
    assert parts["steps"] == 3 and parts["model_hash"] == whole.value["model_hash"]

    folder, scores = tmp_path / "whole", tmp_path / "scores.jsonl"
    assert holdtrue("score", folder, data[2], "--output", scores).code == 0
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    assert len(rows) == 8 and all(len(row["rewards"]) == 2 for row in rows)
    measured = holdtrue("evaluate", folder, data[2], "--json").value
    assert measured["accuracy"] == whole.value["evaluation"]["accuracy"]
    checks = holdtrue("verify", folder, "--json").value["checks"]
    assert {check["name"] for check in checks if check["status"] == "fail"} == set()
    assert holdtrue("report", folder).code == 0
    card = json.loads((folder / "model" / "reward_card.json").read_text())
    assert card["pool"] == ("cls" if pool == "auto" else "mean") and card["template"]["name"] == "pair"


RATED = {"prompt": "say it", "completions": ["a", "bc", "def"], "ratings": [0.1, 0.5, 0.9]}
PAIR = {"prompt": "say it", "chosen": "abc", "rejected": "d"}


@pytest.mark.parametrize(
    ("family", "row", "options"),
    [
        ("t5", RATED, ["loss.kind=mse"]),
        ("t5", PAIR, ["loss.kind=hinge", "model.pool=mean"]),
        ("deberta-v2", RATED, ["loss.kind=rmse", "training.gradient_checkpointing=true"]),
        ("roberta", RATED, ["loss.kind=plackett_luce", "model.lora.r=4"]),
        ("modernbert", PAIR, ["model.kind=two_class", "loss.kind=cross_entropy", "model.pool=max"]),
        ("bert", PAIR, ["training.parallel=fsdp", "model.pool=mean"]),
    ],
)
def test_losses_train_encoders_through_the_one_loop(
    family: str, row: dict[str, Any], options: list[str], tmp_path: Path, holdtrue: Run
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row | {"prompt": f"say {i}"}) + "\n" for i in range(12)))
    model = write(tmp_path / "m", family)
    settings = [
        "training.max_steps=6",
        "training.learning_rate=1e-2",
        "training.train_batch_size=8",
        *options,
    ]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    trained = holdtrue("train", data, "--model", model, "--output", tmp_path / "run", *flags)
    assert trained.code == 0, trained.err
    loss = [row["loss"] for row in RunDir(tmp_path / "run").metrics() if "loss" in row]
    assert loss[-1] < 0.9 * loss[0]
    checks = holdtrue("verify", tmp_path / "run", "--json").value["checks"]
    assert {check["name"] for check in checks if check["status"] == "fail"} == set()


def _settings(folder: Path) -> Any:
    from holdtrue.settings import build

    return build(RunDir(folder).settings())


def test_check_counts_an_encoders_tokens(tmp_path: Path, holdtrue: Run) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "ab", "chosen": "cde", "rejected": "fgh"}))
    found = holdtrue("check", data, "--model", write(tmp_path / "bert"), "--json").value
    assert found["lengths"]["train"]["tokens"]["p50"] == 8  # [CLS] a b [SEP] c d e [SEP]
