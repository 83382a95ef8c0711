"""X11: the same call again after an error."""

from __future__ import annotations

from pathlib import Path
from time import process_time
from typing import Any

import pytest

from chat_families import chatml_folder, finding
from holdtrue.data.examples import Example
from holdtrue.doctor.remedies.dedupe_failed_calls import DedupeFailedCalls
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.tool_calls import steps

ASK = {"role": "user", "content": "Zoom in."}
END = {"role": "assistant", "content": "I cannot."}


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "zoom", "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}


def tried(times: int, error: str = "ERROR {}: box too small") -> list[dict[str, Any]]:
    """A call that fails; spaces and order of its arguments change, and the number in the error."""
    spellings = ('{"x": 1, "y": 2}', {"y": 2, "x": 1})
    turns = [ASK]
    for time in range(times):
        turns += [call(spellings[time % 2]), {"role": "tool", "content": error.format(time)}]
    return [*turns, END]


def seen(folder: Path, *talks: list[dict[str, Any]], good: int = 0) -> Any:
    plain = [[ASK, END]] * good
    rows = [Example(tuple(talk), f"rows.jsonl:{at}") for at, talk in enumerate([*talks, *plain], start=1)]
    return finding(Subject(folder, examples=rows), "X11")


@pytest.mark.parametrize("text", ["<tool_call>" * 20_000, "<tool_call>" + " " * 100_000])
def test_a_loop_of_opening_tags_is_no_call_and_takes_linear_time(text):
    start = process_time()
    (step,) = steps([{"role": "assistant", "content": text}])
    assert step.calls == ()
    assert process_time() - start < 1


def test_calls_are_read_from_text_without_thoughts_about_them():
    text = '<think>In <tool_call></tool_call> tags.</think><tool_call>\n{"name": "zoom"}\n</tool_call>'
    (step,) = steps([{"role": "assistant", "content": text}])
    assert step.calls == ('{"name": "zoom"}',)


def test_three_failed_calls_in_a_row_fail_with_their_turns(tmp_path: Path):
    found = seen(chatml_folder(tmp_path), tried(2), tried(3), tried(5))
    assert found.severity == "fail"
    assert "2 of 3 examples" in found.evidence and "rows.jsonl:2, rows.jsonl:3" in found.evidence
    assert "turns 1 to 11" in found.evidence  # the user's is 0, then five calls with an answer each
    spans = [(span["at"], span["turns"], span["calls"]) for span in found.values["spans"]]
    assert spans == [("rows.jsonl:2", (1, 7), 3), ("rows.jsonl:3", (1, 11), 5)]
    assert "--remedy dedupe_failed_calls" not in found.fix  # commands are added by examine
    assert found.values["fix"] == {"remedies": ["dedupe_failed_calls"]}


@pytest.mark.parametrize(("good", "severity"), [(98, "fail"), (99, "warn")])
def test_few_rows_only_warn(tmp_path: Path, good: int, severity: str):
    assert seen(chatml_folder(tmp_path), tried(4), good=good).severity == severity  # 1 of 99, of 100


@pytest.mark.parametrize(
    "talk",
    [
        tried(2),  # one retry
        tried(4, "still running, step {}"),  # waits, does not fail
        [turn for i in range(4) for turn in (call({"x": i}), {"role": "tool", "content": "error"})],
        [turn for e in "abcd" for turn in (call({"x": 1}), {"role": "tool", "content": f"error {e}"})],
    ],
)
def test_what_is_no_loop_is_well(tmp_path: Path, talk: list[dict[str, Any]]):
    assert seen(chatml_folder(tmp_path), talk).severity == "ok"


def test_an_answer_that_holds_all_turns_in_one_text_is_read_too(tmp_path: Path):
    one = '<tool_call>{"name": "zoom"}</tool_call>\nERROR: invalid\n'
    found = seen(chatml_folder(tmp_path), [ASK, {"role": "assistant", "content": f"So: {one * 3}"}])
    assert found.severity == "fail" and "fix" in found.values and not found.values["fix"]
    (span,) = found.values["spans"]
    # "So: " 4, then the second call begins where the first repeats
    assert span["characters"] == (
        4 + len(one),
        4 + 2 * len(one) + len('<tool_call>{"name": "zoom"}</tool_call>'),
    )


def test_data_are_clean_after_the_remedy(tmp_path: Path):
    rows, changes = DedupeFailedCalls().apply([{"messages": tried(5)}, {"messages": tried(3)}])
    assert changes.counts == {"failed calls dropped": 4 + 2}
    assert seen(chatml_folder(tmp_path), *(row["messages"] for row in rows)).severity == "ok"
