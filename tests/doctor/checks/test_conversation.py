"""C, conversations: prefixes, dropped parts, markers in data, hand-written glue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_families import CHATML, chat_folder, chatml_folder, finding, findings, put
from holdtrue.data.examples import Example
from holdtrue.doctor.findings import Missing
from holdtrue.doctor.subject import Subject

MULTI = frozenset({"multi-turn"})


def talk(
    *contents: str, system: str | None = None, tools: list[Any] | None = None, at: str = "rows.jsonl:1"
) -> Example:
    """User and assistant by turns."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    before = [] if system is None else [{"role": "system", "content": system}]
    return Example((*before, *turns), at, tools=tools)


# case 7


THOUGHT = "<think>\nhm\n</think>\n\n"
RL = {"num_generations": 8}


def test_qwen3_changes_earlier_answers_when_turns_follow(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen3")
    rows = [talk("a", f"{THOUGHT}b", "c", "d", "e", "f"), talk("a", "b", at="rows.jsonl:2")]
    seen = finding(Subject(folder, examples=rows), "C03")
    assert seen.severity == "fail"
    assert "with thoughts in earlier answers" in seen.evidence
    assert "1 of 2 examples, e.g. rows.jsonl:1" in seen.evidence
    drift = seen.values["drift"]["multi-turn"]
    # "<|im_start|>user\n" 17, the question 19, "<|im_end|>\n" 11, "<|im_start|>assistant\n" 22: then <think>
    assert (drift["offset"], drift["role"], drift["turn"]) == (69, "assistant", 1)
    assert drift["was"].startswith("<think>\n\n</think>")
    assert finding(Subject(folder), "C03").severity == "warn"
    assert finding(Subject(folder, asked=MULTI), "C03").severity == "fail"


@pytest.mark.parametrize(
    ("given", "severity"),
    [
        ({}, "warn"),  # supervised data without a thought: nothing was sampled, no words are lost
        ({"settings": {"assistant_only_loss": True}}, "warn"),
        ({"settings": RL}, "fail"),  # the answers of several turns are sampled
        ({"asked": MULTI}, "fail"),
    ],
)
def test_rewritten_answers_fail_only_where_answers_are_sampled(
    tmp_path: Path, given: dict[str, Any], severity: str
):
    rows = [talk("a", "b", "c", "d")]
    seen = finding(Subject(chat_folder(tmp_path, "Qwen3"), examples=rows, **given), "C03")
    assert seen.severity == severity
    assert seen.values["sampled"] is (severity == "fail")
    assert ("nothing here is sampled" in seen.why) is (severity == "warn")


def test_earlier_answers_of_a_prompt_were_not_sampled(tmp_path: Path):
    prompts = Subject(chat_folder(tmp_path, "Qwen3"), examples=[talk("a", "b", "c")], settings=RL)
    assert finding(prompts, "C03").severity == "warn"


def test_the_training_template_of_qwen3_keeps_them(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen3", template="qwen3_training")
    rows = [talk("a", "b", "c", "d", "e", "f")]
    seen = finding(Subject(folder, examples=rows, asked=MULTI), "C03")
    assert seen.severity == "ok"
    assert "multi-turn" in seen.evidence


def test_drift_with_tools_matters_where_tools_are_used(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen3")
    seen = finding(Subject(folder, asked=frozenset({"tools"})), "C03")
    assert seen.severity == "fail"
    assert "tools" in seen.values["drift"]


# dropped parts


@pytest.mark.parametrize(
    ("given", "severity"),
    [
        ({}, "warn"),
        ({"asked": frozenset({"tools"})}, "fail"),
        ({"settings": {"tools": ["search"]}}, "fail"),
        ({"examples": [talk("a", "b", tools=[{"type": "function"}])]}, "fail"),
        ({"examples": [talk("a", "b")]}, "warn"),
    ],
)
def test_dropped_tools_fail_only_where_they_are_used(tmp_path: Path, given: dict[str, Any], severity: str):
    seen = {
        one.values["part"]: one for one in findings(Subject(chat_folder(tmp_path, "Phi-3.5"), **given), "C04")
    }
    assert seen["tools"].severity == severity
    assert set(seen["tools"].values["lost"]) == {"the tools offered", "the tool call", "the tool's result"}


@pytest.mark.parametrize(
    ("uses", "severity"), [((), "warn"), (("thinking",), "warn"), (("thinking", "multi-turn"), "fail")]
)
def test_past_thoughts_need_several_turns_to_be_missed(tmp_path: Path, uses: tuple[str, ...], severity: str):
    (seen,) = findings(Subject(chat_folder(tmp_path, "Qwen3"), asked=frozenset(uses)), "C04")
    assert seen.severity == severity
    assert seen.values["lost"] == {"an earlier turn's thought": "dropped"}


def test_a_lost_last_thought_fails_a_single_turn_that_thinks(tmp_path: Path):
    subject = Subject(chat_folder(tmp_path, "R1-distill"), asked=frozenset({"thinking"}))
    thoughts = next(one for one in findings(subject, "C04") if one.values["part"] == "thoughts")
    assert thoughts.severity == "fail"
    assert thoughts.values["needed"] == ["the last turn's thought"]


def test_a_system_turn_that_raises_fails_where_the_data_has_one(tmp_path: Path):
    folder = chat_folder(tmp_path, "Gemma")
    assert {one.severity for one in findings(Subject(folder), "C04")} == {"warn"}
    rows = [talk("a", "b", system="Be brief.", at=f"rows.jsonl:{i}") for i in (1, 2)]
    failing = [one for one in findings(Subject(folder, examples=rows), "C04") if one.severity == "fail"]
    assert "system (rows.jsonl:1)" in failing[0].why
    assert "2 of 2 examples are not rendered, e.g. rows.jsonl:1, rows.jsonl:2" in failing[1].evidence
    assert "System role not supported" in failing[1].evidence


def test_nothing_is_lost_where_everything_is_rendered(tmp_path: Path):
    (seen,) = findings(Subject(chat_folder(tmp_path, "Qwen2.5")), "C04")
    assert seen.severity == "ok"


# texts


def test_text_that_was_rendered_before_fails(tmp_path: Path):
    folder = chatml_folder(tmp_path)
    rows = [talk("a", "b"), talk("<|im_start|>user\na<|im_end|>", "b", at="rows.jsonl:2")]
    seen = finding(Subject(folder, examples=rows), "C06")
    assert seen.severity == "fail"
    assert seen.values["examples"] == ["rows.jsonl:2"]
    assert finding(Subject(folder, examples=rows[:1]), "C06").severity == "ok"
    with pytest.raises(Missing, match="no data"):
        finding(Subject(folder), "C06")


def test_a_quoted_marker_is_not_a_rendered_text(tmp_path: Path):
    rows = [talk("What does <|im_end|> mean?", "The end.")]
    subject = Subject(chatml_folder(tmp_path), examples=rows)
    assert finding(subject, "C06").severity == "ok"
    seen = finding(subject, "C07")
    assert seen.severity == "warn"
    assert "1 of 1 examples hold one" in seen.evidence


def test_a_template_that_takes_control_strings_out_cannot_be_injected(tmp_path: Path):
    template = CHATML.replace("message['content']", "message['content'] | replace('<|', '< |')")
    assert finding(Subject(chatml_folder(tmp_path, chat_template=template)), "C07").severity == "ok"


# case 10


GLUE = "<|im_start|>user\n{result}<|im_end|>\n<|im_start|>assistant\n"
STOP_STRING = {"generation_kwargs": {"stop": ["</tool_call>"]}}


def test_glue_without_the_end_of_the_turn_fails_with_the_difference(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen2.5-VL")
    seen = finding(Subject(folder, glue=GLUE, settings=STOP_STRING), "C08")
    assert seen.severity == "fail"
    assert seen.values["differences"] == ["missing '<|im_end|>\\n'"]
    mended = seen.values["fix"]["glue"]
    assert mended == "<|im_end|>\n" + GLUE
    assert finding(Subject(folder, glue=mended, settings=STOP_STRING), "C08").severity == "ok"


def test_glue_begins_behind_the_end_that_the_policy_samples_itself(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen2.5-VL")  # its EOS is <|im_end|>, id 2
    seen = finding(Subject(folder, glue=GLUE), "C08")
    assert (seen.severity, seen.values["own_end"]) == ("fail", 2)
    assert "missing '\\n'" in seen.evidence and "missing '<|im_end|>\\n'" in seen.evidence
    assert seen.values["fix"]["glue"] == "\n" + GLUE
    good = finding(Subject(folder, glue="\n" + GLUE), "C08")
    assert good.severity == "ok" and "behind the <|im_end|> (2)" in good.evidence
    assert finding(Subject(folder, glue="\n" + GLUE, settings=STOP_STRING), "C08").severity == "fail"


def test_glue_with_the_end_is_right_where_the_sampled_one_is_not_kept(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen2.5")
    whole = finding(Subject(folder, glue="<|im_end|>\n" + GLUE), "C08")
    assert whole.severity == "ok" and "leave out the first" in whole.evidence


def test_the_data_say_which_end_the_policy_samples(tmp_path: Path):
    folder = chatml_folder(tmp_path)
    put(folder, "generation_config.json", {"eos_token_id": [0, 2]})
    row = Example(
        (
            {"role": "user", "content": "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"},
            {"role": "assistant", "content": "b<|endoftext|>"},
        ),
        "rows.jsonl:1",
        plain=True,
    )
    assert finding(Subject(folder, glue="\n" + GLUE, examples=[row]), "C08").values["own_end"] == 0
    assert finding(Subject(folder, glue="\n" + GLUE, examples=[talk("a", "b")]), "C08").values["own_end"] == 2


def test_an_end_at_which_no_engine_stops_is_not_the_policy_s_own(tmp_path: Path):
    folder = chatml_folder(tmp_path, eos_token="<|endoftext|>")
    assert finding(Subject(folder, glue=GLUE), "C08").values["differences"] == ["missing '<|im_end|>\\n'"]


def test_glue_is_compared_with_the_role_it_comes_nearest_to(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen2.5")
    inner = "<tool_response>\nno luck\n</tool_response>"
    wrapped = f"\n<|im_start|>user\n{inner}<|im_end|>\n<|im_start|>assistant\n"
    assert finding(Subject(folder, glue=wrapped), "C08").evidence.startswith(
        "as the template renders a tool turn"
    )


def test_no_glue_skips_the_check(tmp_path: Path):
    with pytest.raises(Missing, match="no --glue given"):
        finding(Subject(chatml_folder(tmp_path)), "C08")


def test_two_strings_that_are_rendered_already_are_taken_as_they_stand(tmp_path: Path):
    turns = (
        {"role": "user", "content": "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"},
        {"role": "assistant", "content": "4<|im_end|>"},
    )
    folder = chatml_folder(tmp_path)
    rendered = [Example(turns, f"rows.jsonl:{i}", plain=True) for i in range(20)]
    assert finding(Subject(folder, examples=rendered), "C06").severity == "ok"
    assert findings(Subject(folder, examples=rendered), "X01")[0].severity == "ok"
    messages = [Example(turns, "rows.jsonl:1")]
    assert finding(Subject(folder, examples=messages), "C06").severity == "fail"
