"""``holdtrue score``: every row with its rewards, in order, also after an interruption."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import toy

Run = Callable[..., Any]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_line_is_the_row_with_raw_rewards_of_plain_transformers(
    holdtrue: Run, toy_folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    done = holdtrue("score", toy_run, toy_folder / "eval.jsonl", "-o", tmp_path / "out.jsonl", "--json")
    assert done.code == 0
    assert (done.value["rows"], done.value["resumed_after"], done.value["unscored"]) == (20, 0, {})
    scored, given = rows(tmp_path / "out.jsonl"), rows(toy_folder / "eval.jsonl")
    model = AutoModelForSequenceClassification.from_pretrained(toy_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(toy_run / "model")
    for row, original in zip(scored, given, strict=True):
        assert {key: row[key] for key in original} == original
        assert row["reward_model"] == done.value["reward_model"]
        for side, reward in zip(("chosen", "rejected"), row["rewards"], strict=True):
            text = f"user {row['prompt']} <|end|> assistant {row[side]} <|end|>"
            with torch.no_grad():
                expected = model(**tokenizer(text, return_tensors="pt")).logits.item()
            assert reward == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_completions_get_one_reward_each_and_a_single_answer_gets_one(
    holdtrue: Run, toy_run: Path, tmp_path: Path
) -> None:
    data = [
        {"prompt": "rain ?", "completions": ["so kind", "so rude", "tell " * 200]},
        {"prompt": "rain ?", "completions": ["so kind"]},
        {"prompt": "rain ?", "completions": ["so kind", "tell " * 200], "ratings": [2, 1]},
    ]
    path = toy.write_pairs(tmp_path / "many.jsonl", 0, rows=data)
    assert holdtrue("score", toy_run, path, "-o", tmp_path / "many.out").code == 0
    first, second, rated = rows(tmp_path / "many.out")
    assert rated["rewards"] == [pytest.approx(second["rewards"][0]), None]
    assert first["rewards"][2] is None and first["rewards"][0] == pytest.approx(second["rewards"][0])
    assert first["reward_reason"] == "longer than max_length" and "reward_reason" not in second
    one = toy.write_pairs(tmp_path / "one.jsonl", 0, rows=[{"prompt": "rain ?", "completion": "so kind"}])
    assert holdtrue("score", toy_run, one, "-o", tmp_path / "one.out").code == 0
    assert rows(tmp_path / "one.out")[0]["rewards"] == pytest.approx(second["rewards"])


def test_a_row_that_does_not_fit_keeps_its_place_with_null_and_the_reason(
    holdtrue: Run, toy_run: Path, tmp_path: Path
) -> None:
    data = [toy.pairs(1)[0], {"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}, toy.pairs(1)[0]]
    path = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=data)
    with open(path, "a") as file:
        file.write("garbage\n")
    done = holdtrue("score", toy_run, path, "-o", tmp_path / "out.jsonl", "--json")
    assert (done.code, done.value["unscored"]) == (0, {"longer than max_length": 1})
    assert done.value["rejected"] == {"not JSON": 1}
    scored = rows(tmp_path / "out.jsonl")
    assert [row["rewards"] is None for row in scored] == [False, True, False]
    assert scored[1]["reward_reason"] == "longer than max_length"
    assert scored[0]["rewards"] == scored[2]["rewards"]
    assert [row["line"] for row in rows(tmp_path / "out.jsonl.rejected.jsonl")] == [4]


@pytest.mark.parametrize("cut", [0, 1, 40, 500, -1, -30])
def test_an_output_cut_anywhere_is_completed_to_what_it_would_have_been(
    holdtrue: Run, toy_folder: Path, toy_run: Path, tmp_path: Path, cut: int
) -> None:
    line = ["score", toy_run, toy_folder / "eval.jsonl", "--json", "-o"]
    assert holdtrue(*line, tmp_path / "whole.jsonl").code == 0
    whole = (tmp_path / "whole.jsonl").read_bytes()
    kept = whole[:cut]
    (tmp_path / "out.jsonl").write_bytes(kept)
    done = holdtrue(*line, tmp_path / "out.jsonl")
    assert done.code == 0 and done.value["resumed_after"] == kept.count(b"\n")
    assert done.value["rows"] == 20
    for row, expected in zip(rows(tmp_path / "out.jsonl"), rows(tmp_path / "whole.jsonl"), strict=True):
        assert row.pop("rewards") == pytest.approx(expected.pop("rewards"), abs=1e-5)  # in other batches
        assert row == expected
    again = (tmp_path / "out.jsonl").read_bytes()
    assert holdtrue(*line, tmp_path / "out.jsonl").value["resumed_after"] == 20
    assert (tmp_path / "out.jsonl").read_bytes() == again


def test_what_could_not_be_scored_is_counted_again_on_resuming(
    holdtrue: Run, toy_run: Path, tmp_path: Path
) -> None:
    data = [{"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}, *toy.pairs(3)]
    path = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=data)
    for resumed in (0, 4):
        done = holdtrue("score", toy_run, path, "-o", tmp_path / "out.jsonl", "--json")
        assert done.value["resumed_after"] == resumed
        assert done.value["unscored"] == {"longer than max_length": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"a file of somebody else without a newline",
        b"a file of somebody else\n",
        b'{"prompt": "other", "reward_model": "0123456789abcdef"}\n',
        b"[1]\n",
    ],
)
def test_a_file_that_is_not_an_output_of_this_is_not_touched(
    holdtrue: Run, toy_folder: Path, toy_run: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "out.jsonl").write_bytes(content)
    done = holdtrue("score", toy_run, toy_folder / "eval.jsonl", "-o", tmp_path / "out.jsonl", "--json")
    assert done.code == 3 and "not written by this model" in done.error["message"]
    assert (tmp_path / "out.jsonl").read_bytes() == content


def test_the_output_of_other_data_is_not_gone_on_with(
    holdtrue: Run, toy_folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    assert holdtrue("score", toy_run, toy_folder / "eval.jsonl", "-o", output).code == 0
    before = output.read_bytes()
    done = holdtrue("score", toy_run, toy_folder / "train.jsonl", "-o", output, "--json")
    assert done.code == 3 and "line 1 is not a row of this data" in done.error["message"]
    fewer = toy.write_pairs(tmp_path / "few.jsonl", 0, rows=rows(toy_folder / "eval.jsonl")[:5])
    done = holdtrue("score", toy_run, fewer, "-o", output, "--json")
    assert done.code == 3 and "line 6 is not a row of this data" in done.error["message"]
    assert output.read_bytes() == before


def test_columns_of_other_names_are_read_and_kept(holdtrue: Run, toy_run: Path, tmp_path: Path) -> None:
    data = [{"question": row["prompt"], "answer": row["chosen"]} for row in toy.pairs(3)]
    path = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=data)
    columns = ["--column", "prompt=question", "--column", "completion=answer"]
    assert holdtrue("score", toy_run, path, "-o", tmp_path / "out.jsonl", *columns).code == 0
    scored = rows(tmp_path / "out.jsonl")
    assert [{k: row[k] for k in ("question", "answer")} for row in scored] == data
    assert all(len(row["rewards"]) == 1 for row in scored)


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [(None, 2, "--output FILE"), ("no/out.jsonl", 3, "there is no folder"), (".", 2, "is a directory")],
)
def test_an_output_that_cannot_be_written_is_said(
    holdtrue: Run,
    toy_folder: Path,
    toy_run: Path,
    tmp_path: Path,
    output: str | None,
    code: int,
    message: str,
) -> None:
    extra = ["-o", tmp_path / output] if output else []
    done = holdtrue("score", toy_run, toy_folder / "eval.jsonl", *extra, "--json")
    assert done.code == code and message in done.error["message"]


@pytest.mark.parametrize("output", [".", "/", ""])
def test_a_directory_without_a_name_is_no_file_for_rows(
    holdtrue: Run, toy_folder: Path, toy_run: Path, output: str
) -> None:
    done = holdtrue("score", toy_run, toy_folder / "eval.jsonl", "-o", output, "--json")
    assert done.code == 2 and "name the file the rows go to" in done.error["message"]


def test_missing_or_useless_data_ends_with_3_and_missing_data_leaves_nothing(
    holdtrue: Run, toy_run: Path, tmp_path: Path
) -> None:
    done = holdtrue("score", toy_run, "/no.jsonl", "-o", tmp_path / "a.out", "--json")
    assert done.code == 3 and "does not exist" in done.error["message"]
    assert not list(tmp_path.iterdir())
    (tmp_path / "bad.jsonl").write_text("garbage\n")
    done = holdtrue("score", toy_run, tmp_path / "bad.jsonl", "-o", tmp_path / "b.out", "--json")
    assert done.code == 3 and "no usable rows" in done.error["message"]
    assert holdtrue("score", tmp_path, tmp_path / "bad.jsonl", "-o", tmp_path / "c.out", "--json").code == 3


def test_rows_can_go_into_a_pipe(toy_folder: Path, toy_run: Path) -> None:
    import sys

    line = ["score", toy_run, toy_folder / "eval.jsonl", "-o", "/dev/stdout"]
    done = subprocess.run(
        [sys.executable, "-m", "holdtrue", *map(str, line)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [json.loads(text)["prompt"] for text in done.stdout.splitlines()[:20]] == [
        row["prompt"] for row in rows(toy_folder / "eval.jsonl")
    ]
