"""``holdtrue doctor reward``: a function, a model folder or a server is audited from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy

Run = Callable[..., Any]

REWARDS = """
import re

def blind(completions, **columns):
    return [0.8 * bool(re.search("<tool_call>.*</tool_call>", text, re.S)) for text in completions]

def strict(completions, ground_truth, **columns):
    return [float(text == truth) for text, truth in zip(completions, ground_truth)]

def boom(completions, **columns):
    raise ValueError("no such\\ncolumn")
"""


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rewards_of_mine.py"
    path.write_text(REWARDS)
    return path


def severities(value: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["severity"] for one in value["findings"]}


def test_a_blind_function_fails_with_code_4(holdtrue: Run, rewards: Path) -> None:
    done = holdtrue("doctor", "reward", f"{rewards}:blind", "--json")
    assert (done.code, done.value["verdict"], done.value["examples"]) == (4, "fail", 20)
    assert severities(done.value)["R01"] == severities(done.value)["R02"] == "fail"
    first = done.value["findings"][0]
    assert {"id", "severity", "evidence", "why", "fix", "source"} <= set(first)
    assert [one["id"] for one in done.value["skipped"]] == ["R13"]


def test_the_text_says_what_was_seen_why_and_what_to_do(holdtrue: Run, rewards: Path) -> None:
    done = holdtrue("doctor", "reward", f"{rewards}:blind")
    assert done.code == 4
    lines = done.out.splitlines()
    assert lines[0] == "FAIL R01 suffix_blind"
    assert lines[1].strip().startswith("<|im_start|> x 8: 4 of 4 answers lose nothing")
    assert lines[2].strip().startswith("why: ") and lines[3].strip().startswith("fix: make the reward see")
    assert lines[-1].startswith("FAIL: ") and lines[-1].endswith("blind on 20 honest answers")


def test_columns_of_the_data_reach_the_reward_and_junk_in_it_is_left_out(
    holdtrue: Run, rewards: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"{n} + 1?", "completion": str(n + 1), "ground_truth": str(n + 1 + n % 2)}
        for n in range(9)
    ]
    rows.append({"prompt": "?", "completion": "4<|im_start|>", "ground_truth": "4"})
    data = toy.write_pairs(tmp_path / "data.jsonl", 0, rows=rows)
    done = holdtrue("doctor", "reward", f"{rewards}:strict", "--data", data, "--json")
    assert (done.code, done.value["verdict"]) == (0, "warn")
    assert (done.value["examples"], done.value["left_out"]) == (9, {"empty, or with control tokens": 1})
    assert "R01" in severities(done.value) and severities(done.value)["R01"] == "ok"
    few = holdtrue("doctor", "reward", f"{rewards}:strict", "--data", data, "--examples", 4, "--json")
    assert few.value["examples"] == 4


def test_a_saved_model_is_audited_with_both_answers_of_a_pair(
    holdtrue: Run, toy_folder: Path, toy_run: Path
) -> None:
    done = holdtrue("doctor", "reward", toy_run, "--data", toy_folder / "eval.jsonl", "--json")
    assert done.code in (0, 4) and done.value["examples"] == 40
    found = severities(done.value)
    assert found["R11"] == found["R12"] == "ok"  # scores neither depend on the batch nor on chance
    missing = next(one for one in done.value["findings"] if one["id"] == "R06")
    assert missing["severity"] == "warn" and "396 filler words (40 of 40)" in missing["evidence"]


def test_an_answer_too_long_for_the_model_is_left_out_with_the_reason(
    holdtrue: Run, toy_run: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": "rain ?", "completion": text} for text in ("so kind", "so rude", "tell " * 200)]
    data = toy.write_pairs(tmp_path / "data.jsonl", 0, rows=rows)
    done = holdtrue("doctor", "reward", toy_run, "--data", data, "--json")
    assert (done.value["examples"], done.value["left_out"]) == (2, {"longer than max_length": 1})


def test_a_model_that_compares_answers_is_refused(
    holdtrue: Run, toy_folder: Path, tmp_path: Path, toy_run: Path
) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(toy_run / "model", folder)
    card = json.loads((folder / "reward_card.json").read_text())
    (folder / "reward_card.json").write_text(json.dumps({**card, "kind": {"kind": "preference_lm"}}))
    done = holdtrue("doctor", "reward", folder, "--json")
    assert done.code == 2 and "compares two answers" in done.error["message"]


def test_a_classifier_of_transformers_is_a_reward_too(
    holdtrue: Run, toy_folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "classifier"
    shutil.copytree(toy_run / "model", folder)
    for extra in folder.glob("*card*"):
        extra.unlink()
    done = holdtrue(
        "doctor", "reward", folder, "--data", toy_folder / "eval.jsonl", "--examples", 8, "--json"
    )
    assert done.code in (0, 4) and done.value["examples"] == 8


@pytest.mark.parametrize(
    ("reward", "code", "said"),
    [
        ("{file}:boom", 3, "the reward raises ValueError: no such column, for 20 honest answers"),
        ("{file}:nothing", 2, "unknown function 'nothing'"),
        ("{file}:strict", 4, None),
        ("{file}", 2, "name the function in it too"),
        ("no_such_module_at_all:f", 2, "cannot be imported"),
        ("nowhere", 2, "is no folder, URL or function"),
        ("ftp://x/y", 2, "is not a URL"),
        ("http://127.0.0.1:9/get_reward", 3, "the reward cannot be reached"),
    ],
)
def test_every_mistake_is_one_line(holdtrue: Run, rewards: Path, reward: str, code: int, said: str) -> None:
    done = holdtrue("doctor", "reward", reward.format(file=rewards), "--json", "--timeout", 5)
    assert done.code == code
    if said:
        assert said in done.error["message"] and "\n" not in done.error["message"]


def test_data_without_an_honest_answer_is_refused(holdtrue: Run, rewards: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "?", "completion": ""}, {"prompt": "!", "completion": "</s>a"}]
    data = toy.write_pairs(tmp_path / "data.jsonl", 0, rows=rows)
    done = holdtrue("doctor", "reward", f"{rewards}:blind", "--data", data, "--json")
    assert done.code == 3 and "there are 0, and 2 empty" in done.error["message"]
    done = holdtrue("doctor", "reward", f"{rewards}:blind", "--format", "preference", "--json")
    assert done.code == 2 and "no --data" in done.error["message"]


def test_a_missing_column_is_named(holdtrue: Run, rewards: Path, toy_folder: Path) -> None:
    done = holdtrue("doctor", "reward", f"{rewards}:strict", "--data", toy_folder / "eval.jsonl", "--json")
    assert done.code == 2 and "'ground_truth'" in done.error["message"]
    assert json.loads(done.out)["error"]["type"] == "SettingsError"
