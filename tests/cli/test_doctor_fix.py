"""``holdtrue doctor fix``: what it says of each finding, and that a check of the copy agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chat_families import CHATML, chatml_folder, put
from holdtrue.cli.main import run

SETTINGS = {"learning_rate": 5e-5, "beta": 0, "num_generations": 8, "max_completion_length": 256}


@pytest.fixture
def case(tmp_path: Path) -> list[str]:
    """A wrong EOS, 253 phantom rows, RL settings without a hold, and a row that holds turns of its own."""
    folder = chatml_folder(tmp_path / "model", eos_token="<|endoftext|>", padding_side="right")
    put(folder, "generation_config.json", {"eos_token_id": 0})
    put(folder, "config.json", {"vocab_size": 512, "eos_token_id": 0})
    put(tmp_path, "grpo.json", SETTINGS)
    answers = [f"Number {i}." for i in range(20)] + ["a<|im_end|>\n<|im_start|>assistant\nb"]
    turns = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": one}] for one in answers]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    data = ["--data", str(tmp_path / "rows.jsonl"), "--remedy", "drop_control", "--remedy", "neutralise"]
    return ["doctor", "fix", str(folder), "--settings", str(tmp_path / "grpo.json"), *data]


def value_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    run([*arguments, "--json"])
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_each_finding_stands_in_one_list_and_done_is_what_a_check_of_the_copy_finds_no_more(
    case: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    value = value_of([*case, "-o", str(tmp_path / "b")], capsys)
    done, to_apply, by_hand = (set(value[name]) for name in ("done", "to_apply", "by_hand"))
    assert not done & to_apply and not done & by_hand and not to_apply & by_hand
    assert {"T01", "T06", "X01", "C06"} <= done  # C06: drop_control took its row away
    assert {"T04", "K01", "K02", "K05"} <= to_apply
    left = {one["id"] for one in value["after"]["findings"] if one["severity"] != "ok"}
    assert not done & left and left <= to_apply | by_hand
    assert {one["id"] for one in value["before"]["findings"] if one["severity"] != "ok"} <= (
        done | to_apply | by_hand
    )


def test_a_fix_of_the_copy_changes_nothing_and_calls_nothing_done(
    case: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    value_of([*case, "-o", str(tmp_path / "b")], capsys)
    again = value_of(["doctor", "fix", str(tmp_path / "b")], capsys)
    assert (again["diff"], again["done"]) == ([], {})


def test_the_difference_is_shown_in_short_before_and_not_after_it_is_written(
    case: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "model" / "tokenizer_config.json"
    given = {key: one for key, one in json.loads(config.read_text()).items() if key != "padding_side"}
    config.write_text(json.dumps({**given, "chat_template": "{# " + "x" * 3000 + " #}" + CHATML}, indent=2))
    (tmp_path / "model" / "chat_template.jinja").unlink()
    run(case)
    lines = capsys.readouterr().out.splitlines()
    titles = ["would be changed in the copy", "would be written for you to apply", "still yours to do"]
    places = [lines.index(title) for title in titles]
    assert places == sorted(places) and not any(line[:1] in "-+@" for line in lines[places[0] :] if line)
    assert lines[-1].startswith("nothing was written")
    diff = lines[: places[0]]
    assert "--- a/tokenizer_config.json" in diff and any("chat_template" in line for line in diff)
    assert max(map(len, diff)) < 160 and not any("-100" in line for line in diff)
    run([*case, "-o", str(tmp_path / "b")])
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith(("---", "+++", "@@")) for line in lines)
    assert [title.removeprefix("would be ") in lines for title in titles] == [True] * 3


def test_commands_by_hand_stand_indented_in_the_list_and_files_to_apply_say_where(
    case: list[str], capsys: pytest.CaptureFixture[str]
):
    run(case[: case.index("--remedy")])
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.lstrip().startswith("holdtrue doctor fix")]
    assert commands and all(line.startswith("       ") for line in commands)
    (trl,) = [line for line in lines if "TRL: as generation_kwargs" in line]
    assert trl.split()[0] == "masks.json" and any("verl: as +actor_rollout_ref" in line for line in lines)
    assert any("trl: --" in line and "--beta 0.001" in line for line in lines)
