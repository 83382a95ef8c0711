"""``holdtrue shift``: telemetry of rollouts against a saved model."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from holdtrue import job
from holdtrue.records import Answer, Group, Message
from holdtrue.reward.folders import open_scorer
from holdtrue.settings import build

PROMPT = "tell about rain ?"
ANSWERS = {
    "sft": ["the answer is kind", "so rude and vague", "so warm", "vague and cold", "right"],
    "round 1": ["the answer is clear clear", "clear clear clear", "is cold"],
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def rollouts(tmp_path: Path) -> str:
    rows = [
        {"prompt": PROMPT, "completion": text, "policy": policy, "log_ratio": float(i)}
        for policy, texts in ANSWERS.items()
        for i, text in enumerate(texts)
    ]
    return write(tmp_path / "rollouts.jsonl", rows)


def test_each_policy_is_set_beside_the_first(
    toy_run: Path, rollouts: str, holdtrue: Callable[..., Any]
) -> None:
    value = holdtrue("shift", toy_run, rollouts, "--json").value
    first, second = value["policies"]["sft"], value["policies"]["round 1"]
    assert value["reference"] == "sft" and first["relative_spread"] == 1.0
    assert (first["answers"], second["answers"]) == (5, 3)
    assert (first["kl"], second["kl"]) == (2.0, 1.0)
    assert second["mahalanobis"] > 0 and first["kl_error"] is None  # of one prompt
    group = Group(
        (Message("user", PROMPT),), tuple(Answer((Message("assistant", t),)) for t in ANSWERS["sft"])
    )
    rewards = open_scorer(toy_run / "model").scorer.score([group])[0].tolist()
    squares = [(a - b) ** 2 for a, b in combinations(rewards, 2)]
    assert first["spread"] == pytest.approx((sum(squares) / 10) ** 0.5, rel=1e-5)


def test_labels_give_an_accuracy_with_its_interval_and_another_model_a_gap(
    toy_run: Path, rollouts: str, tmp_path: Path, holdtrue: Callable[..., Any]
) -> None:
    rows = [{"prompt": PROMPT, "chosen": text, "rejected": "is cold"} for text in ANSWERS["round 1"][:2]]
    labels = write(tmp_path / "labels.jsonl", rows)
    outcome = holdtrue("shift", toy_run, rollouts, "--labels", labels, "--held-out", toy_run, "--json")
    policies = outcome.value["policies"]
    assert policies["round 1"]["labels"] == 2 and policies["round 1"]["accuracy"] == 1.0
    assert policies["round 1"]["low"] < 1.0 == policies["round 1"]["high"]
    assert policies["sft"]["accuracy"] is None
    assert policies["round 1"]["proxy_gap"] == 0.0  # the model beside itself
    shown = holdtrue("shift", toy_run, rollouts, "--labels", labels).out
    assert "round 1" in shown and "1 (0.342 to 1, n=2)" in shown and "an alarm" in shown


def test_an_ensembles_members_disagree(
    toy_run: Path, toy_folder: Path, rollouts: str, tmp_path: Path, holdtrue: Callable[..., Any]
) -> None:
    data = {"train": [str(toy_folder / "train.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]}
    settings = {"data": data, "model": {"path": str(toy_folder / "model")}, "training": {"max_steps": 2}}
    other = job.start(build(settings | {"seed": 7}), tmp_path / "other")
    job.train(other)
    made = holdtrue("combine", toy_run, other.path, "--by", "min", "--output", tmp_path / "both")
    assert made.code == 0
    value = holdtrue("shift", tmp_path / "both", rollouts, "--json").value
    assert value["policies"]["round 1"]["disagreement"] > 0
    assert value["policies"]["round 1"]["mahalanobis"] is None


def test_wrong_names_and_single_answers_are_one_line(
    toy_run: Path, rollouts: str, tmp_path: Path, holdtrue: Callable[..., Any]
) -> None:
    outcome = holdtrue("shift", toy_run, rollouts, "--reference", "round 2", "--json")
    assert outcome.error["message"] == "unknown policy 'round 2'; did you mean 'round 1'?"
    alone = write(tmp_path / "alone.jsonl", [{"prompt": PROMPT, "completion": "the answer is kind"}])
    (told,) = holdtrue("shift", toy_run, alone, "--json").value["policies"].values()
    assert told["answers"] == 1 and told["spread"] is None and told["reward"] is None
