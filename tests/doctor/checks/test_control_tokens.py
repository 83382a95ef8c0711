"""X01 and X10; with X04 and K04 of what answers say beside their content: thoughts and arguments of calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_families import chat_folder, finding, findings
from doctor_rows import END, of, run, talk, talks, worst
from holdtrue.data.examples import Example, beside, read_examples
from holdtrue.doctor.encoding import encode
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.remedies.drop_control import DropControl
from holdtrue.doctor.subject import Subject

START = "<|im_start|>"
ASK = {"role": "user", "content": "Zoom in."}


def called(arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"name": "zoom", "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"function": function}], **more}


SICK = {
    "an argument": called({"box": [1, 2], "why": [f"a{START}b"]}),
    "arguments given as JSON": called(f'{{"why": "a{START}b"}}'),
    "an argument with a line break": called({"why": f"a\n{START}b"}),
    "a thought": {"role": "assistant", "content": "No.", "reasoning_content": f"So{START} no."},
}


def subject(folder: Path, *turns: dict[str, Any], good: int = 0) -> Subject:
    plain = [{"role": "assistant", "content": f"Tea {i} is hot."} for i in range(good)]
    rows = [Example((ASK, turn), f"rows:{at}") for at, turn in enumerate([*turns, *plain], start=1)]
    return Subject(folder, examples=rows)


def in_text(of: Subject) -> Finding:
    """X01's finding of a control token in what somebody says."""
    (found,) = [one for one in findings(of, "X01") if "by_role" in one.values]
    return found


@pytest.mark.parametrize("turn", SICK.values(), ids=list(SICK))
def test_a_control_token_in_a_call_or_a_thought_fails_and_the_remedy_drops_the_row(tmp_path: Path, turn: Any):
    of = subject(chat_folder(tmp_path, "Qwen3"), turn, good=9)
    found = in_text(of)
    role = "assistant thought" if "reasoning_content" in turn else "assistant call"
    assert found.severity == "fail" and found.values["at"] == ["rows:1"]
    assert (found.values["by_role"], found.values["targets"]) == ({role: 1}, 1)
    assert found.values["fix"] == {"remedies": ["drop_control"]}
    rows = [{"messages": [*one.messages]} for one in of.examples or ()]
    for by in ("drop", "cut"):
        assert DropControl(by=by).apply(rows)[0] == rows[1:]


def test_a_control_token_in_an_earlier_call_is_said_and_is_no_targets(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen3")
    turns = (
        ASK,
        SICK["an argument"],
        {"role": "tool", "content": "Tea."},
        {"role": "assistant", "content": "It is tea."},
    )
    found = in_text(Subject(folder, examples=[Example(turns, "rows:1")]))
    assert found.severity == "warn"
    assert (found.values["by_role"], found.values["targets"]) == ({"assistant call": 1}, 0)


def test_the_target_reaches_from_the_thought_to_the_call(tmp_path: Path):
    of = subject(
        chat_folder(tmp_path, "Qwen3"), called({"why": "tea"}, content="Look:", reasoning_content="Hm.")
    )
    (one,) = encode(of.examples or (), of.tokenizer)
    assert one.target is not None
    text = of.tokenizer.decode(one.ids[one.target.start : one.target.end])
    # the template's own, with its tags between; a token is a byte, and a tag of calls one token
    assert text.startswith("Hm.\n</think>\n\nLook:") and text.endswith('"why": "tea')


def test_a_thought_is_not_looked_for_in_what_others_say(tmp_path: Path):
    """Qwen2.5's template drops thoughts; the same words stand in the next question."""
    folder = chat_folder(tmp_path, "Qwen2.5")
    said = {"role": "assistant", "content": "No.", "reasoning_content": "Zoom further"}
    turns = (ASK, said, {"role": "user", "content": "Zoom further"}, {"role": "assistant", "content": "Yes."})
    (one,) = encode([Example(turns, "rows:1")], Subject(folder).tokenizer)
    assert [span.role for span in one.spans] == ["user", "assistant", "user", "assistant"]


def test_traces_of_another_template_in_a_call_fail(tmp_path: Path):
    of = subject(chat_folder(tmp_path, "Qwen3"), called({"why": "<start_of_turn>user"}), good=9)
    (found,) = [one for one in findings(of, "X01") if one.values.get("string")]
    assert (found.values["string"], found.severity) == ("<start_of_turn>", "fail")


def test_an_attractor_token_in_a_call_warns(tmp_path: Path):
    of = subject(chat_folder(tmp_path, "Qwen3"), called({"why": "a_b"}))
    tokenizer = of.tokenizer
    tokenizer.add_tokens(["_marker"])
    tokenizer.save_pretrained(tmp_path)
    assert finding(subject(tmp_path, called({"why": "a_b"})), "X10").severity == "ok"
    assert finding(subject(tmp_path, called({"why": "a_marker"})), "X10").severity == "warn"


def test_calls_of_one_length_are_not_cut(tmp_path: Path):
    calls = [called({"why": "x" * 300}, content="Look")] * 4
    assert finding(subject(chat_folder(tmp_path, "Qwen3"), *calls, good=9), "X04").severity == "ok"


@pytest.mark.parametrize(
    ("turn", "texts"),
    [
        ({"role": "user", "tool_calls": [{"function": {"arguments": "a"}}]}, []),
        ({"role": "assistant", "tool_calls": "a", "reasoning_content": 7}, []),
        (
            {"role": "assistant", "tool_calls": [None, {"function": None}, {"arguments": {"a": ["b", 1]}}]},
            ["b"],
        ),
        (called({"a": "first", "b": {"c": "second"}, "d": "third"}), ["first", "second", "third"]),
    ],
)
def test_odd_calls_are_read_as_far_as_they_go(turn: Any, texts: list[str]):
    assert [text for _, text in beside(turn)] == texts


def test_the_census_counts_places_neighbours_and_what_follows_itself(tokenizer):
    examples = [*talks(8), talk(f"a{START}{START}b", at="data:8"), talk("fine", f"{END}x", at="data:9")]
    census = of(run(tokenizer(), examples), "X01")[-1]
    assert census.severity == "ok"
    start, end = census.values["control_tokens"]
    # two turns in each of ten examples, and two in one answer
    assert (start["token"], start["count"], start["written_by_template"], start["in_text"]) == (
        START,
        22,
        20,
        2,
    )
    assert start["follows_itself"] == 1 / 22
    assert start["before"] == {"(start)": 10, END: 10, "a": 1, START: 1}
    assert start["places"] == {"template": 20, "assistant inside": 2}
    assert start["at"] == ["data:8"]
    assert (end["count"], end["places"]) == (21, {"template": 20, "user first": 1})
    assert start["share_of_examples"] == 1.0
    assert start["share_of_tokens"] == 22 / census.values["tokens"]


def test_a_control_token_that_follows_itself_fails_and_names_the_rows(tokenizer):
    diagnosis = run(tokenizer(), [*talks(20), talk(f"yes{START}{START}{START}", at="bad.jsonl:7")])
    found = next(one for one in of(diagnosis, "X01") if one.values.get("repeated"))
    assert found.severity == "fail" and "bad.jsonl:7" in found.evidence
    assert (found.values["id"], found.values["repeated"], found.values["count"]) == (0, 2, 45)


def test_a_control_string_in_a_target_fails_in_a_prompt_warns_and_in_raw_text_is_structure(tokenizer):
    folder = tokenizer()
    in_target = [
        one for one in of(run(folder, [*talks(9), talk(f"so {END} ends it")]), "X01") if one.severity != "ok"
    ]
    assert [(one.severity, one.values["by_role"]) for one in in_target] == [("fail", {"assistant": 1})]
    in_prompt = [
        one
        for one in of(run(folder, [*talks(9), talk("ok", f"what is {END}?")]), "X01")
        if one.severity != "ok"
    ]
    assert [(one.severity, one.values["by_role"]) for one in in_prompt] == [("warn", {"user": 1})]
    raw = Example((), "data:1", text=f"{START}user\nhi{END}{START}assistant\nyes{END}")
    assert [one.severity for one in of(run(folder, [raw]), "X01")] == ["ok"]


def test_marks_of_another_template_in_targets_fail(tokenizer):
    found = worst(run(tokenizer(), [*talks(9), talk("Hot.<|start_header_id|>assistant")]), "X01")
    assert found.severity == "fail" and found.values["string"] == "<|start_header_id|>"


def test_attractor_tokens_in_targets_warn(shared):
    folder = shared("data/tokenizers/qwen2.5-instruct")
    found = worst(run(folder, [*talks(5), talk("Hot. addCriterion", at="odd:6")]), "X10")
    assert found.severity == "warn" and "18724" in found.evidence and "odd:6" in found.evidence
    assert worst(run(folder, talks(5)), "X10").severity == "ok"


def test_a_policy_that_leaks_headers_is_found_by_its_answers(shared):
    path = shared("data/alpaca_eval_policies/GPO-Llama-3-8B-Instruct-GPM-2B.jsonl.gz")
    found = worst(run(shared("data/tokenizers/qwen2.5-instruct"), read_examples([str(path)])[0]), "X01")
    assert (
        found.severity == "fail"
        and found.values["string"] == "<|start_header_id|>"
        and found.values["targets"] == 19
    )
