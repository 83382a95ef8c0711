"""The faults of published chat templates, as the checks find them. The knowledge page's matrix, re-measured.

"dropped" and "raises" are of a system turn, a tool call and a tool's result. Differences from the page:
R1-distill drops calls whose content is empty and renders the results (it raises where content is null);
GLM-4 MoE renders calls, in a format of its own; Gemma drops calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_families import chat_folder
from holdtrue.doctor.checks import examine
from holdtrue.doctor.subject import Subject

MATRIX: dict[str, dict[str, Any]] = {
    "Qwen2.5": {"default_system": True},
    "Qwen2.5-VL": {"default_system": True, "tool call": "dropped"},
    "Qwen3": {"plain": False, "think": False, "past_think": False},
    "Llama-3": {"tool call": "dropped", "double_bos": True, "eos_is_end": False, "pad": None},
    "Llama-3.1": {"double_bos": True, "pad": None},
    "Gemma": {
        "system turn": "raises",
        "tool call": "dropped",
        "tool's result": "raises",
        "double_bos": True,
        "eos_is_end": False,
    },
    "Gemma3": {"tool call": "dropped", "tool's result": "raises", "double_bos": True, "eos_is_end": False},
    "DeepSeek-V3": {
        "prompt_prefix": False,
        "past_think": False,
        "last_think": False,
        "tool call": "raises",
        "tool's result": "raises",
        "double_bos": True,
        "pad": "eos",
    },
    "R1-distill": {
        "prompt_prefix": False,
        "past_think": False,
        "last_think": False,
        "tool call": "dropped",
        "double_bos": True,
        "pad": "eos",
    },
    "GLM-4 MoE": {"think": False, "past_think": False, "eos_is_end": False, "end": None, "pad": "eos"},
    "Phi-3.5": {
        "plain": False,
        "think": False,
        "tool call": "dropped",
        "tool's result": "dropped",
        "eos_is_end": False,
        "pad": "eos",
    },
}
"""Where a family differs from ``HEALTHY``."""

HEALTHY: dict[str, Any] = {
    "prompt_prefix": True,
    "plain": True,
    "think": True,
    "past_think": True,
    "last_think": True,
    "system turn": "kept",
    "default_system": False,
    "tool call": "kept",
    "tool's result": "kept",
    "double_bos": False,
    "eos_is_end": True,
    "end": True,
    "pad": "other",
    "generation_marker": False,
    "injection": True,
}


def measured(folder: Path) -> dict[str, Any]:
    """A row of the matrix, read off the findings."""
    subject = Subject(folder)
    diagnosis = examine(subject)
    by_id = {one.id: one for one in diagnosis.findings}
    lost = {
        part.removeprefix("the "): how
        for one in diagnosis.findings
        if one.id == "C04" and one.severity != "ok"
        for part, how in one.values["lost"].items()
    }
    tokenizer, end = subject.tokenizer, by_id["T01"].values["template"]
    pads = {None: None, tokenizer.eos_token_id: "eos"}
    return {
        "prompt_prefix": by_id["C02"].severity == "ok",
        "plain": "multi-turn" not in by_id["C03"].values["drift"],
        "think": "thinking" not in by_id["C03"].values["drift"],
        "past_think": "an earlier turn's thought" not in lost,
        "last_think": "last turn's thought" not in lost,
        "default_system": by_id["C10"].severity == "warn",
        "double_bos": by_id["T03"].severity != "ok",
        "eos_is_end": tokenizer.eos_token_id in end[:1],
        "end": True if end else None,
        "pad": pads.get(tokenizer.pad_token_id, "other"),
        "generation_marker": "no generation markers" not in by_id["C05"].evidence,
        "injection": by_id["C07"].severity == "warn",
        **{
            part: lost.get(part, "kept").partition(" ")[0]
            for part in ("system turn", "tool call", "tool's result")
        },
    }


@pytest.mark.parametrize("family", MATRIX)
def test_the_matrix_is_reproduced(tmp_path: Path, family: str):
    assert measured(chat_folder(tmp_path, family)) == HEALTHY | MATRIX[family]


@pytest.mark.parametrize("uses", [frozenset[str](), frozenset({"tools", "thinking", "multi-turn"})])
def test_qwen_2_5_has_nothing_that_fails_for_any_use(tmp_path: Path, uses: frozenset[str]):
    diagnosis = examine(Subject(chat_folder(tmp_path, "Qwen2.5"), asked=uses))
    assert diagnosis.verdict == "warn"
