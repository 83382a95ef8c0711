"""``holdtrue doctor check``: its exit codes, its JSON and what a person sees."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from chat_families import CHATML, chatml_folder, put
from holdtrue.cli.doctor.check import render
from holdtrue.cli.main import run
from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine
from holdtrue.doctor.subject import Subject

IGNORES_THE_PROMPT = CHATML.partition("{% if add")[0]


def _talk(answer: str, question: str = "Is it good?") -> dict[str, object]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def test_warnings_exit_with_0_and_failures_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["doctor", "check", str(chatml_folder(tmp_path / "a")), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["verdict"] == "warn"
    assert {"id", "severity", "evidence", "why", "fix", "source", "values"} == set(value["findings"][0])
    assert {"id", "why"} == set(value["skipped"][0])
    assert value["unread"] == {}
    sick = chatml_folder(tmp_path / "b", chat_template=IGNORES_THE_PROMPT)
    assert run(["doctor", "check", str(sick), "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert (value["verdict"], value["findings"][0]["id"]) == ("fail", "C11")


def test_uses_and_glue_are_given_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = str(chatml_folder(tmp_path))
    assert run(["doctor", "check", folder, "--uses", "tools, multi-turn", "--json"]) == 4
    failing = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["severity"] == "fail"]
    assert [one["id"] for one in failing] == ["C04"]
    assert "tools (--uses)" in failing[0]["why"]
    assert run(["doctor", "check", folder, "--glue", "<|im_start|>user", "--json"]) == 4
    failing = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["severity"] == "fail"]
    assert [one["id"] for one in failing] == ["C08"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 3, "nowhere is not a folder"),
        ([".", "--adapter", "nowhere"], 3, "nowhere is not a folder"),
        ([".", "--uses", "tool"], 2, "unknown use 'tool'; did you mean 'tools'?"),
    ],
)
def test_mistakes_of_the_user_are_one_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
):
    assert run(["doctor", "check", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_broken_config_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = chatml_folder(tmp_path)
    put(folder, "config.json", {"vocab_size": "many"})
    assert run(["doctor", "check", str(folder)]) == 3
    assert "vocab_size of config.json is 'many'; a number of rows is expected" in capsys.readouterr().err


def test_a_folder_without_a_model_is_an_error_that_names_the_one_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty").mkdir()
    assert run(["doctor", "check", str(tmp_path / "empty")]) == 3
    error = capsys.readouterr().err
    assert "holds none of tokenizer.json" in error and "a model folder holds" in error and "mean" not in error
    chatml_folder(tmp_path / "model")
    assert run(["doctor", "check", str(tmp_path)]) == 3
    assert f"did you mean {tmp_path / 'model'}?" in capsys.readouterr().err


def test_what_fails_is_not_counted_as_well_too(tmp_path: Path):
    """X01 fails for a row, and tells its census besides, which is ok."""
    turns = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a<|im_start|>b"})
    diagnosis = examine(Subject(chatml_folder(tmp_path), examples=[Example(turns, "a.jsonl:1")]))
    assert {"fail", "ok"} <= {one.severity for one in diagnosis.findings if one.id == "X01"}
    console = Console(width=200, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(render(diagnosis, {}))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    (fine,) = [line.split()[1:] for line in lines if line.startswith("ok      ")]
    ids = [one.strip(",") for one in fine]
    assert "X01" not in ids and f" {len(ids)} ok," in lines[-1]
    assert "ok   X01 control tokens" not in lines and "     X01 control tokens" in lines


def test_files_are_streamed_and_what_can_be_read_once_is_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, rows = chatml_folder(tmp_path), "".join(json.dumps(_talk(f"It is {i}.")) + "\n" for i in range(9))
    broken = rows + '{"messages": [{"ro'
    whole, packed, pipe = (tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c"))
    whole.write_text(broken)
    packed.write_bytes(gzip.compress(broken.encode()))
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_text, args=[broken])
    writer.start()
    said = []
    for path in (whole, packed, pipe):
        assert run(["doctor", "check", str(folder), "--data", str(path), "--json"]) == 0
        said.append(capsys.readouterr().out.replace(str(path), "DATA"))
    writer.join()
    assert json.loads(said[0])["unread"] == {"truncated last line": 1}
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty.jsonl", b"", "no rows"),
        ("latin.jsonl", b'{"text": "caf\xe9"}\n', "invalid UTF-8 (1 rows"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "tea"}\n', mtime=0)[:14], "truncated last line (1 rows"),
        ("folder", None, "holds no data file"),
    ],
)
def test_data_without_a_row_that_can_be_read_are_one_line(
    tmp_path: Path, name: str, content: bytes | None, why: str, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    assert run(["doctor", "check", str(chatml_folder(tmp_path)), "--data", str(path)]) == 3
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1 and name in said.err and why in said.err


def test_people_see_the_worst_first_within_80_columns(tmp_path: Path):
    folder = chatml_folder(tmp_path, chat_template=IGNORES_THE_PROMPT)
    console = Console(width=80, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(render(examine(Subject(folder)), {"broken message": 3}))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines[0] == "fail C11 generation prompt is empty"
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("  seen add_generation_prompt changes nothing; answers are trained after")
    assert any(line.startswith("ok      ") and "T01" in line for line in lines)
    at = next(i for i, line in enumerate(lines) if line.startswith("skipped C06, X01, X02"))
    assert lines[at + 1] == "        given"  # below the ids, not below the word
    assert "unread  3 rows of the data: broken message" in lines
    assert lines[-1].startswith("verdict fail: 1 fail")


def test_forward_says_what_it_takes_runs_the_model_and_shows_what_it_saw(
    base_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    folder = base_model()
    assert run(["doctor", "check", str(folder), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert any(one["id"] == "W06" and "--forward" in one["why"] for one in value["skipped"])
    assert run(["doctor", "check", str(folder), "--forward", "--json"]) == 4
    said = capsys.readouterr()
    assert said.err.startswith("--forward: the weights take 0.1 MB as float32, ")
    (found,) = [one for one in json.loads(said.out)["findings"] if one["id"] == "W06"]
    assert {"rank", "p_end", "next", "tail", "at"} == set(found["values"]["prompts"][0])
    assert run(["doctor", "check", str(folder), "--forward"]) == 4
    assert "fail W06 logit lens" in capsys.readouterr().out


def test_forward_is_refused_in_one_line_where_the_memory_is_too_small(
    base_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder = base_model()
    (tmp_path / "meminfo").write_text("MemAvailable: 1000 kB\n")
    monkeypatch.setattr("holdtrue.doctor.forward._MEMORY", tmp_path / "meminfo")
    capsys.readouterr()
    assert run(["doctor", "check", str(folder), "--forward"]) == 6
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1
    assert "--forward needs 1.1 GB of memory: the weights take 0.1 MB as float32, 1.0 MB are" in said.err


def test_forward_of_a_folder_without_weights_is_skipped_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(["doctor", "check", str(chatml_folder(tmp_path)), "--forward"]) == 0
    said = capsys.readouterr()
    assert not said.err and "W06: no config.json" in " ".join(said.out.split())


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"eos_token_id": None}, "no end of an answer is declared"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "is no causal language model"),
    ],
)
def test_forward_that_is_skipped_says_nothing_of_memory(
    base_model: Callable[..., Path],
    byte_tokenizer: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
    why: str,
):
    folder = base_model(tokenizer=byte_tokenizer(eos_token=None))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    (folder / "generation_config.json").unlink()
    capsys.readouterr()
    run(["doctor", "check", str(folder), "--forward"])
    said = capsys.readouterr()
    assert "--forward" not in said.err and why in " ".join(said.out.split())


def test_data_with_control_tokens_are_clean_after_the_command_that_check_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    folder, data = chatml_folder(tmp_path / "model"), tmp_path / "rows.jsonl"
    good = [_talk(f"Number {i} is good.") for i in range(20)]
    rows = [
        *good,
        _talk("a<|im_start|>b"),
        _talk("end<|im_end|>"),
        _talk("<|eot_id|>"),
        _talk("x", "y<|im_end|>"),
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["doctor", "check", str(folder), "--data", str(data), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)["findings"]
    fixes = [one["fix"] for one in found if one["id"] in ("X01", "C07") and one["severity"] != "ok"]
    names = ("drop_control", "neutralise")
    printed = {
        name for name in names for fix in fixes if f"--data {data} " in fix and f"--remedy {name}" in fix
    }
    assert printed == set(names)
    command = next(fix for fix in fixes if all(name in fix for name in names)).splitlines()[-1].split()
    assert run([*command[1:], "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    x01 = {one["severity"] for one in result["after"]["findings"] if one["id"] == "X01"}
    assert x01 == {"ok"}
    assert result["data"][0]["counts"] == {"rows with ends taken off": 1, "rows dropped": 2}
    assert result["done"]["X01"].startswith("data.jsonl: ")
    left = (tmp_path / "model-fixed" / "data.jsonl").read_text().splitlines()
    assert len(left) == len(rows) - 2


def test_lines_in_a_file_end_where_their_text_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["doctor", "check", str(chatml_folder(tmp_path / "a"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5 and lines == [line.rstrip() for line in lines]
