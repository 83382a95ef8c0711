"""What a policy was trained on, as its run and those before it say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from holdtrue.data.splits import held_out
from holdtrue.policy.lineage import trace
from holdtrue.records import Message, content_hash
from holdtrue.rundir import RunDir


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def rl_run(path: Path, policy: str, prompts: Path, **data: Any) -> RunDir:
    """A run of policy optimisation as it stands in its files."""
    settings = {
        "task": "rl",
        "policy": {"path": policy},
        "data": {"prompts": [str(prompts)], **data},
        "decoding": {"max_new_tokens": 7},
    }
    run = RunDir.create(path, settings)
    run.update_info(data={"files": {str(prompts): digest(prompts)}})
    return run


def sft_run(path: Path, rows: Path, template: str = "own", **data: Any) -> RunDir:
    settings = {"task": "sft", "model": {"path": "base"}, "data": {"train": [str(rows)], **data}}
    run = RunDir.create(path, settings)
    files = [{"path": str(rows), "sha256": digest(rows)}]
    run.update_info(data={"train": {"files": files}}, model={"chat_template": template})
    return run


def test_a_run_was_trained_on_its_prompts_but_not_on_those_it_held_out(tmp_path: Path) -> None:
    texts = [f"prompt {n}" for n in range(20)]
    prompts = write(tmp_path / "p.jsonl", *({"prompt": text} for text in texts))
    run = rl_run(tmp_path / "run", "base", prompts, eval_fraction=0.5)
    keys = [content_hash((Message("user", text),)) for text in texts]
    trained = {text for text, out in zip(texts, held_out(keys, 0.5), strict=True) if not out}
    found = trace(str(run.path))
    assert found.trained == {str(run.path): trained} and 0 < len(trained) < 20
    assert found.taught(min(trained)) == str(run.path) and found.taught("prompt 99") is None
    assert found.decoding is not None and found.decoding["max_new_tokens"] == 7
    assert found.plain_text == "chat" and not found.notes


def test_the_runs_that_a_policy_began_from_count_too(tmp_path: Path) -> None:
    talk = [Message("user", "first"), Message("assistant", "yes"), Message("user", "second")]
    turns = [{"role": m.role, "content": m.content} for m in (*talk, Message("assistant", "no"))]
    rows = write(
        tmp_path / "sft.jsonl",
        {"messages": turns},
        {"prompt": "asked", "completion": "said"},
        {"text": "nothing is asked"},
    )
    first = sft_run(tmp_path / "sft", rows, eval_fraction=0)
    prompts = write(tmp_path / "p.jsonl", {"prompt": "later"})
    second = rl_run(tmp_path / "rl", str(first.model), prompts, plain_text="raw")
    found = trace(str(second.model))
    whole = "[user] first\n\n[assistant] yes\n\n[user] second"
    assert found.trained == {str(second.path): {"later"}, str(first.path): {"first", whole, "asked"}}
    assert found.plain_text == "raw"  # of the policy's own run
    last = sft_run(tmp_path / "last", rows, eval_fraction=0, turns="last")
    assert trace(str(last.path)).trained[str(last.path)] == {whole, "asked"}


@pytest.mark.parametrize(
    ("setting", "template", "taken"),
    [("auto", "own", "chat"), ("auto", "none", "raw"), ("raw", "own", "raw"), ("chat", "own", "chat")],
)
def test_plain_text_is_what_fine_tuning_took_it_for(
    tmp_path: Path, setting: str, template: str, taken: str
) -> None:
    rows = write(tmp_path / "sft.jsonl", {"prompt": "asked", "completion": "said"})
    run = sft_run(tmp_path / "run", rows, template, plain_text=setting)
    found = trace(str(run.path))
    assert found.plain_text == taken and found.decoding is None


def test_files_that_changed_or_are_gone_are_noted(tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", {"prompt": "a"})
    run = rl_run(tmp_path / "run", "base", prompts)
    write(prompts, {"prompt": "b"})
    found = trace(str(run.path))
    assert found.trained[str(run.path)] == {"b"}
    assert found.notes == [
        f"{prompts} changed since {run.path} was trained on it: what it held then may be among these"
    ]
    prompts.unlink()
    (note,) = trace(str(run.path)).notes
    assert note.startswith(f"prompts that {run.path} was trained on may be among these: ")
    assert "does not exist" in note


def test_what_is_no_run_of_a_policy_has_no_lineage(tmp_path: Path, toy_run: Path) -> None:
    for path in (str(tmp_path), "owner/name", str(toy_run)):
        found = trace(path)
        assert not found.trained and not found.notes and found.plain_text is None
