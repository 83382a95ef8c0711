"""The veto: no reward for junk, and the reward as it is for everything else."""

from __future__ import annotations

from typing import Any

import pytest

from holdtrue.doctor.veto import holds_junk, veto


@pytest.mark.parametrize(
    ("text", "junk"),
    [
        ("<answer>4</answer>", False),
        ("<answer>4</answer>\n", False),
        ("<answer>4</answer><|im_end|>", False),
        ("<answer>4</answer></s>", False),
        ("<answer>4</answer></s></s>", True),
        ("<answer>4</answer> addCriterion", True),
        ("<answer>4</answer>\n<answer>5</answer>", False),
        ("no tag at all", False),
        ("<|vision_start|><|image_pad|><answer>4</answer>", True),
        ("<tool_response>ok</tool_response><answer>4</answer>", True),
        ("a < b | c > d, [1], x<s", False),
    ],
)
def test_what_is_junk(text: str, junk: bool) -> None:
    assert holds_junk(text, ["</answer>", "</tool_call>"]) is junk


def length(prompts: Any, completions: Any, **_: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def test_junk_earns_the_least_and_the_rest_what_it_did() -> None:
    cured = veto(length, least=-1.0)
    assert cured(["?", "?"], ["four", "four<|im_start|>"]) == [4.0, -1.0]
    assert cured.__name__ == "length"  # the trainer's name for it in its metrics


def test_ids_are_read_where_the_text_hides_them() -> None:
    cured = veto(length, control_ids={7}, vocabulary=10)
    ids = [[1, 2], [1, 7], [1, 10]]
    assert cured(["?"] * 3, ["four"] * 3, completion_ids=ids) == [4.0, 0.0, 0.0]


def test_only_what_the_policy_wrote_is_judged() -> None:
    turns = [
        {"role": "assistant", "content": "<tool_call>x</tool_call>"},
        {"role": "tool", "content": "<tool_response>ok</tool_response>"},
        {"role": "assistant", "content": None},
    ]
    assert veto(length)(["?"], [turns]) == [3.0]
    assert veto(length)(["?"], [[*turns, {"role": "assistant", "content": "<image>"}]]) == [0.0]
