from __future__ import annotations

from dataclasses import replace

import pytest

from doctor_rows import run, talk, talks, thought, worst
from holdtrue.data.examples import Example
from holdtrue.doctor.training_settings import by_trl_names


def test_loss_on_what_tools_say_fails_until_it_is_masked(tokenizer):
    folder = tokenizer()
    call = {"role": "assistant", "content": "look up"}
    turns = (
        {"role": "user", "content": "?"},
        call,
        {"role": "tool", "content": "90"},
        {"role": "assistant", "content": "90."},
    )
    examples = [*talks(3), Example(turns, "tools:4")]
    assert worst(run(folder, examples), "X05").severity == "warn"
    found = worst(run(folder, examples, settings={"learning_rate": 1e-5}), "X05")
    assert found.severity == "fail" and "tools:4" in found.evidence
    assert worst(run(folder, examples, settings=found.values["fix"]["settings"]), "X05").severity == "ok"
    given = replace(examples[-1], given=3)  # the prompt of a row of prompt and completion
    assert worst(run(folder, [given], settings={"learning_rate": 1e-5}), "X05").severity == "ok"


@pytest.mark.parametrize(
    ("settings", "engine"),
    [
        ({"model": {"path": "m"}, "training": {"learning_rate": 1e-5}}, "holdtrue"),
        ({"actor_rollout_ref": {"actor": {"optim": {"lr": 1e-6}}}}, "verl"),
        ({"trainer": {"total_epochs": 2}, "optim": {"lr": 1e-5}}, "verl"),
        ({"pretrain": "m", "learning_rate": 1e-5}, "openrlhf"),
        ({"num_generations": 8}, "trl"),
    ],
)
def test_programs_that_mask_turns_of_tools_by_themselves_are_not_asked_to(tokenizer, settings, engine):
    tool = {"role": "tool", "content": "90 degrees"}
    rows = [Example((*talk("90.").messages[:1], tool, *talk("90.").messages[1:]), "tools:1")]
    found = worst(run(tokenizer(), rows, settings=by_trl_names(settings)), "X05")
    assert found.severity == "ok" and f"{engine} masks them" in found.evidence


def test_empty_answers_fail_and_turns_of_one_role_in_a_row_warn(tokenizer):
    folder = tokenizer()
    assert worst(run(folder, [*talks(5), talk("  ", at="empty:6")]), "X06").values["at"] == ["empty:6"]
    twice = Example(
        (
            {"role": "user", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c"},
        ),
        "d:1",
    )
    assert worst(run(folder, [*talks(5), twice]), "X06").severity == "warn"
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    calling = Example(
        ({"role": "user", "content": "a"}, call, *results, {"role": "assistant", "content": "c"}), "d:1"
    )
    assert worst(run(folder, [calling]), "X06").severity == "ok"


def test_tags_that_rewards_read_are_checked(tokenizer):
    folder = tokenizer()
    good = [talk(f"<think>so {i}</think><answer>{i}</answer>") for i in range(10)]
    found = worst(run(folder, good), "X07")
    assert found.severity == "ok" and found.values["tags"]["answer"] == 10
    assert worst(run(folder, [*good, talk("<vision><|image_pad|>")]), "X07").severity == "fail"
    thinking = Example((*talk("5").messages[:1], thought("Hm <tool_response>5", "5")), "data:1")
    assert worst(run(folder, [*good, thinking]), "X07").severity == "fail"
    assert worst(run(folder, [*good, talk("<answer>5")]), "X07").values["unclosed"] == 1
    assert worst(run(folder, [*good, talk("<answer>5</answer> and so on")]), "X07").values["text_after"] == 1
