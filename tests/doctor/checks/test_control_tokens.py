"""X01, X10, X04 and K04 of what answers say beside their content: thoughts and arguments of tool calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_families import chat_folder, finding, findings
from holdtrue.data.examples import Example, beside
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
