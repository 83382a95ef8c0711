"""``holdtrue doctor rollouts`` as its users meet it: the JSON, the exit codes, the page, wrong arguments."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from holdtrue.cli.doctor.rollouts import render
from holdtrue.cli.main import run

CALM = "The lake lies between two hills, and in spring the meadows around it are yellow with flowers."


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rollouts(folder: Path) -> str:
    sick = {"prompt": "Sing.", "completion": CALM + " na" * 80, "step": 2, "policy": "current"}
    return write(
        folder / "a.jsonl", {"prompt": "Talk.", "completion": CALM, "step": 1, "policy": "reference"}, sick
    )


def test_the_json_has_a_row_for_each_answer_with_characters_of_what_was_found(tmp_path, capsys):
    assert run(["doctor", "rollouts", rollouts(tmp_path), "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert [(row["index"], row["verdict"]) for row in value["rows"]] == [(0, "ok"), (1, "fail")]
    finding = value["rows"][1]["findings"][0]
    assert {"detector", "severity", "start", "end", "evidence"} <= finding.keys()
    assert (finding["detector"], finding["severity"]) == ("tail_cycle", "fail")
    text = CALM + " na" * 80
    assert text[finding["start"] : finding["end"]].replace(" na", "") == ""
    assert value["rates"]["tail_cycle"]["count"] == 1
    assert value["causes"][0]["cause"] == "loops_taught_or_unpunished"
    assert value["verdict"] == "fail"


def test_healthy_rollouts_end_with_code_0_and_say_what_could_not_be_checked(tmp_path, capsys):
    assert run(["doctor", "rollouts", write(tmp_path / "a.jsonl", {"prompt": "?", "completion": CALM})]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ok: 0 of 1 answers are degenerate")
    assert "No token ids" in said and "No rewards" in said


def test_a_tokenizer_decides_control_tokens_on_ids(tmp_path, capsys, byte_tokenizer):
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    quoted = tokenizer("It is <|im_start|>.", add_special_tokens=False)["input_ids"]
    spelt = [id for part in ("It is <", "|im_start|", ">.") for id in tokenizer(part)["input_ids"]]
    end = tokenizer.eos_token_id
    rows = [
        {"prompt": "?", "completion": "It is <|im_start|>.", "completion_ids": [*ids, end]}
        for ids in (quoted, spelt)
    ]
    file = write(tmp_path / "a.jsonl", *rows)
    assert run(["doctor", "rollouts", file, "--tokenizer", str(tmp_path / "model"), "--json"]) == 4
    sick, fine = json.loads(capsys.readouterr().out)["rows"]
    assert fine["findings"] == []
    assert sick["findings"][0]["tokens"] == [6, 7]
    assert (sick["findings"][0]["start"], sick["findings"][0]["end"]) == (6, 18)


def test_chains_and_evidence_of_other_verbs_are_joined(tmp_path, capsys):
    static = tmp_path / "check.json"
    static.write_text(json.dumps({"findings": [{"id": "X03", "severity": "warn", "evidence": "7 % repeat"}]}))
    arguments = ["--chain", "reference,current", "--evidence", str(static)]
    assert run(["doctor", "rollouts", rollouts(tmp_path), *arguments, "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert value["chains"][0]["from"] == "reference"
    assert "X03: 7 % repeat" in value["causes"][0]["evidence"]
    assert run(["doctor", "rollouts", rollouts(tmp_path), *arguments]) == 4
    assert "reference -> current" in capsys.readouterr().out


def test_the_page_holds_every_transcript_escaped_and_the_span_marked(tmp_path):
    evil = {"prompt": "<script>alert(1)</script>", "completion": "<b>" + CALM + " </script>" * 40}
    page = tmp_path / "deep" / "page.html"
    assert run(["doctor", "rollouts", write(tmp_path / "a.jsonl", evil), "-o", str(page)]) == 4
    html = page.read_text(encoding="utf-8")
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)" in html
    assert html.count("<script>") == 1
    assert 'title="tail_cycle:' in html
    assert "default-src &#39;none&#39;" in html


def test_the_page_replaces_a_page_and_nothing_else(tmp_path, capsys):
    file = Path(rollouts(tmp_path))
    before = file.read_bytes()
    assert run(["doctor", "rollouts", str(file), "-o", str(file)]) == 3
    assert f"{file} exists, is no HTML page and is not replaced" in " ".join(capsys.readouterr().err.split())
    assert file.read_bytes() == before
    page = tmp_path / "page.html"
    page.touch()  # empty: nothing to lose
    for _ in range(2):
        assert run(["doctor", "rollouts", str(file), "-o", str(page)]) == 4
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.jsonl"], 3, "does not exist"),
        (["a.jsonl", "--tokenizer", "nowhere"], 3, "tokenizer"),
        (["a.jsonl", "--chain", "reference"], 3, "two policies"),
        (["a.jsonl", "--chain", "x,y"], 3, "no rollouts of policy 'x'"),
        (["a.jsonl", "--evidence", "a.jsonl"], 3, "is not the JSON of doctor"),
        ([], 2, "FILE"),
    ],
)
def test_wrong_arguments_end_in_one_line(tmp_path, capsys, monkeypatch, arguments, code, words):
    rollouts(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(["doctor", "rollouts", *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1


def test_unreadable_rows_are_said_and_keep_their_index(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "?", "completion": "A."}\n{broken\n{"prompt": "?", "completion": "B."}\n')
    assert run(["doctor", "rollouts", str(file), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [row["index"] for row in value["rows"]] == [0, 2]
    assert sum(one["rows"] for one in value["unreadable"].values()) == 1


def own_run(folder: Path, tokenizer: Any) -> Path:
    """A run of holdtrue rl whose 20 answers were cut at 30 tokens, one of them with a control token in it."""
    run = folder / "run"
    tokenizer.save_pretrained(run / "model")
    (run / "settings.yaml").write_text(
        "task: rl\npolicy: {path: gone}\nalgorithm: {kind: rloo, kl_coef: 0.05}\n"
    )
    (run / "run.json").write_text('{"holdtrue": "0.1.0"}')
    ids = tokenizer(CALM[:30], add_special_tokens=False)["input_ids"]
    answers = [ids] * 19 + [[*ids[:10], tokenizer.convert_tokens_to_ids("<|im_start|>"), *ids[11:]]]
    rows = [
        {"prompt": f"{i}?", "answer": CALM[:30], "completion_ids": one, "finish": "length", "step": i}
        for i, one in enumerate(answers)
    ]
    write(run / "rollouts.jsonl", *rows)
    return run


def test_the_headline_names_what_fails(tmp_path, capsys):
    rows = [{"prompt": f"{i}?", "completion": CALM, "finish_reason": "length"} for i in range(5)]
    file = write(tmp_path / "a.jsonl", *rows)
    page = tmp_path / "page.html"
    assert run(["doctor", "rollouts", file, "-o", str(page)]) == 4
    assert capsys.readouterr().out.startswith("fail (TRUNCATION): 0 of 5 answers are degenerate")
    assert "TRUNCATION: fail. 0 of 5 answers are degenerate" in page.read_text()
    assert run(["doctor", "rollouts", rollouts(tmp_path)]) == 4
    assert capsys.readouterr().out.startswith("fail (tail_cycle): 1 of 2 answers are degenerate")


def test_the_page_names_files_and_lines_and_gives_the_settings_of_the_terminal(tmp_path, capsys):
    (tmp_path / "dump").mkdir()
    for name in ("1.jsonl", "2.jsonl"):
        junk = [{"prompt": f"{i}?", "output": CALM + " na" * 80, "score": 1.0} for i in range(5)]
        fine = [{"prompt": f"{i}?", "output": CALM, "score": 1.0} for i in range(5)]
        write(tmp_path / "dump" / name, *fine, *junk)
    page = tmp_path / "page.html"
    assert run(["doctor", "rollouts", str(tmp_path / "dump"), "-o", str(page)]) == 4
    said, html = capsys.readouterr().out, page.read_text()
    assert "1.jsonl:6: " in said and "row 5" not in said
    assert "<b>2.jsonl:10 · fail</b>" in html and "<b>row" not in html
    assert "holdtrue doctor fix MODEL --data ROWS --remedy dedupe --output FOLDER" in said
    assert (
        "<code>command: holdtrue doctor fix MODEL --data ROWS --remedy dedupe --output FOLDER</code>" in html
    )
    assert "rewards spread by 0.000. The reward pays" in html


@pytest.mark.parametrize("given", ["", "rollouts.jsonl"])
def test_a_run_of_holdtrue_brings_its_tokenizer_and_its_settings(tmp_path, capsys, byte_tokenizer, given):
    own = own_run(tmp_path, byte_tokenizer())
    assert run(["doctor", "rollouts", str(own / given), "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert value["tokenizer"] == str(own / "model")
    assert [row["verdict"] for row in value["rows"]] == ["ok"] * 19 + ["fail"]
    how = {one["remedy"]: one["how"] for one in value["remedies"]}
    assert how["longer_limit"] == {"holdtrue rl": {"decoding.max_new_tokens": 60}}  # twice the 30 there were
    assert how["ban_control"] == {"holdtrue rl": {"decoding.control": "ban"}}
    assert not any({"trl", "verl", "vllm", "sglang"} & set(one) for one in how.values())


def test_files_of_another_engine_are_not_a_run_of_holdtrue(tmp_path, capsys, byte_tokenizer):
    own = own_run(tmp_path, byte_tokenizer())
    (own / "settings.yaml").unlink()
    assert run(["doctor", "rollouts", str(own), "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert value["tokenizer"] is None and "no --tokenizer was given" in value["notes"][0]
    assert {"trl", "verl"} <= set(next(o["how"] for o in value["remedies"] if o["remedy"] == "longer_limit"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("settings.yaml", "task: rl\npolicy: foo\n"),
        ("settings.yaml", "task: [rl\n"),
        ("run.json", "{broken"),
        ("run.json", "[1]"),
    ],
)
def test_files_of_the_names_of_a_run_that_are_none_do_not_stop_the_doctor(
    tmp_path, capsys, byte_tokenizer, name, text
):
    own = own_run(tmp_path, byte_tokenizer())
    (own / name).write_text(text)
    assert run(["doctor", "rollouts", str(own), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["tokenizer"] is None


def test_many_steps_are_ten_rows_and_none_where_nothing_fails(tmp_path, capsys):
    rows = [{"prompt": f"{i}?", "completion": CALM + " na" * 80 * (i == 7), "step": i} for i in range(40)]
    assert run(["doctor", "rollouts", write(tmp_path / "a.jsonl", *rows)]) == 4
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("step"))
    table = [line.split() for line in lines[at + 2 : lines.index("", at)]]
    assert [row[0] for row in table] == [f"{i}–{i + 3}" for i in range(0, 40, 4)]
    assert table[1][:3] == ["4–7", "4", "1"] and table[1][-2:] == ["tail_cycle", "(1)"]
    assert any("x 80" in line and "x 80.0" not in line for line in lines)
    healthy = [{"prompt": f"{i}?", "completion": CALM, "step": i} for i in range(40)]
    assert run(["doctor", "rollouts", write(tmp_path / "a.jsonl", *healthy)]) == 0
    assert not any(line.startswith("step") for line in capsys.readouterr().out.splitlines())


def test_the_first_remedies_and_refusals_are_said_in_full_and_others_by_name(tmp_path, capsys):
    file = rollouts(tmp_path)
    assert run(["doctor", "rollouts", file, "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    console = Console(width=60, file=io.StringIO())
    console.print(render(value, None))
    said = " ".join(console.file.getvalue().split())
    refused, good = ([o for o in value["remedies"] if bool(o["refused"]) == no] for no in (True, False))
    assert all(one["refused"] in said for one in refused) and refused
    assert [one["evidence"] in said for one in good] == [True] * 6 + [False] * (len(good) - 6)
    names = ", ".join(f"{one['remedy']} ({one['grade']})" for one in good[6:])
    assert f"further ones, as the page (-o) and --json say in full: {names}" in said and names


def test_void_turns_say_what_to_do_and_calls_without_schemas_that_they_were_not_checked(tmp_path, capsys):
    call = '<tool_call>{"name": "zom", "arguments": {}}</tool_call>'
    rows = [{"prompt": f"{i}?", "completion": f"{call} <answer>{i}</answer>"} for i in range(6)]
    ended = {"prompt": "?", "completion": CALM, "finish_reason": "stop"}
    file = write(tmp_path / "a.jsonl", *rows, ended)
    assert run(["doctor", "rollouts", file]) == 0
    said = capsys.readouterr().out
    assert said.startswith("warn (VOID_TURNS): 0 of 7")
    assert "1 of 7 rollouts have a turn with neither a tool call nor an answer, as row 6" in said
    assert "Leave rollouts with a void turn out of the update" in said
    assert "note: 6 answers call tools, and their rows have no tools" in said
    tools = [{"name": "zoom", "parameters": {}}]
    assert (
        run(["doctor", "rollouts", write(tmp_path / "a.jsonl", *(row | {"tools": tools} for row in rows))])
        == 0
    )
    said = capsys.readouterr().out
    assert said.startswith("warn (invalid_call): 0 of 6") and "their rows have no tools" not in said
