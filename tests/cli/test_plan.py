"""``holdtrue plan``: what it shows a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy

Run = Callable[..., Any]


def test_the_text_shows_a_conversation_with_the_token_that_is_read(
    holdtrue: Run, toy_folder: Path, tmp_path: Path
) -> None:
    row = {"prompt": "tell about rain ?", "chosen": "the answer is kind", "rejected": "so rude"}
    data = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=[row, *toy.pairs(20)])
    done = holdtrue("plan", data, "--model", toy_folder / "model")
    assert done.code == 0
    last = done.out.strip().splitlines()[-1]
    assert last.endswith(">>><|end|><<<") and "assistant the answer is kind" in last
    assert "12 tokens, the answer is 6 to 11; read: '<|end|>'" in done.out
    for words in (
        "5,168 parameters",
        "token trees",
        "MiB",
        "(measured)",
        "left out: nothing",
        "at most 128 fit",
    ):
        assert words in done.out


def test_a_settings_file_can_be_planned(holdtrue: Run, toy_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        f"data: {{train: [{toy_folder / 'train.jsonl'}], eval_fraction: 0}}\n"
        f"model: {{path: {toy_folder / 'model'}}}\ntraining: {{num_train_epochs: 1}}\n"
    )
    done = holdtrue("plan", file, "--json")
    assert done.code == 0 and done.value["data"]["train"]["comparisons"] == 60
    assert done.value["data"]["eval"]["comparisons"] == 0


def test_what_is_dropped_is_said_with_its_reason(holdtrue: Run, toy_folder: Path, tmp_path: Path) -> None:
    rows = [*toy.pairs(20), {"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}]
    data = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows)
    with open(data, "a") as file:
        file.write("garbage\n")
    done = holdtrue("plan", data, "--model", toy_folder / "model", "--set", "data.eval_fraction=0")
    assert "20 comparisons; left out: 1 not JSON, 1 longer than max_length" in done.out


def test_what_transforms_change_is_said_and_planned_with(holdtrue: Run, toy_folder: Path) -> None:
    options = ["--model", toy_folder / "model", "--set", "data.eval_fraction=0"]
    mirrored = "data.transforms=[{kind: swap, share: 1, mirror: true}]"
    done = holdtrue("plan", toy_folder / "train.jsonl", *options, "--set", mirrored)
    assert "train     120 comparisons; left out: nothing" in done.out
    assert "          swap: 60 mirrored comparisons added" in done.out
    done = holdtrue("plan", toy_folder / "train.jsonl", *options, "--set", mirrored, "--json")
    assert done.value["data"]["train"]["transformed"] == [
        {"kind": "swap", "changed": {"mirrored comparisons added": 60}}
    ]
    assert "transformed" not in done.value["data"]["eval"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["{data}"], 2),
        (["{data}", "--model", "/no/model"], 3),
        (["/no.jsonl", "--model", "{model}"], 3),
        ([], 2),
    ],
)
def test_mistakes_have_their_exit_code(
    holdtrue: Run, toy_folder: Path, arguments: list[str], code: int
) -> None:
    filled = [a.format(data=toy_folder / "train.jsonl", model=toy_folder / "model") for a in arguments]
    done = holdtrue("plan", *filled, "--json")
    assert done.code == code and done.error["message"]
