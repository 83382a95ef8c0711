"""What a policy was trained on, as far as runs of holdtrue say: its own run and those it began from.

A run of ``rl`` or ``sft`` names its data and the policy it began from in ``settings.yaml``; where that policy
is the ``model`` of another run, its data count too. Prompts are equal when they read the same, whether as
plain text or as the one turn of a chat. Rows of plain text without a prompt ask nothing and count nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdtrue.data.examples import Example, content_of
from holdtrue.errors import DataError, SettingsError
from holdtrue.policy import prompts, settings, sft, sft_settings
from holdtrue.records import Message, flatten
from holdtrue.rundir import RunDir

Hashes = Mapping[str, str | None]


@dataclass
class Lineage:
    """What is known of a policy's training.

    Attributes:
        decoding: fields of :class:`~holdtrue.policy.decoding.Decoding` that its run drew answers with.
        plain_text: what its run took plain strings for.
        trained: run -> prompts it was trained on, as text. The policy's own run comes first.
        notes: what could not be found out.
    """

    decoding: dict[str, Any] | None = None
    plain_text: str | None = None
    trained: dict[str, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def taught(self, prompt: str) -> str | None:
        """The run that trained the policy on this prompt."""
        return next((run for run, prompts in self.trained.items() if prompt in prompts), None)


def trace(path: str) -> Lineage:
    """The lineage of a run's policy or a model folder; empty where no run is known."""
    found = Lineage()
    run = _run_of(path)
    while run is not None and str(run.path) not in found.trained:
        values = run.settings()
        task = values.get("task")
        if task not in ("rl", "sft"):
            break
        asked = found.trained[str(run.path)] = set()
        try:
            hashes = _read_rl(run, found, asked) if task == "rl" else _read_sft(run, found, asked)
        except (DataError, SettingsError) as error:
            found.notes.append(f"prompts that {run.path} was trained on may be among these: {error}")
        else:
            found.notes += _changed(run, hashes)
        run = _run_of((values.get("policy" if task == "rl" else "model") or {}).get("path"))
    return found


def _run_of(path: str | None) -> RunDir | None:
    """The run at a path, or the one that a model folder lies in."""
    if path is None:
        return None
    here = Path(path)
    runs = [RunDir(here), *([RunDir(here.parent)] if here.name == "model" else [])]
    return next((run for run in runs if run.settings_file.is_file()), None)


def _read_rl(run: RunDir, found: Lineage, asked: set[str]) -> Hashes:
    own = settings.build(run.settings())
    found.decoding = found.decoding or own.decoding.model_dump(mode="json")
    found.plain_text = found.plain_text or own.data.plain_text
    train, _, hashes = prompts.read_splits(own.data, Counter())
    asked.update(group.prompt_text for group in train)
    return hashes


def _read_sft(run: RunDir, found: Lineage, asked: set[str]) -> Hashes:
    own = sft_settings.build(run.settings())
    plain = own.data.plain_text
    if plain == "auto":
        plain = "raw" if (run.info().get("model") or {}).get("chat_template") == "none" else "chat"
    found.plain_text = found.plain_text or plain
    examples, report = sft.read_splits(own.data)["train"]
    for example in examples:
        asked.update(_asked(example, own.data.turns))
    return {} if report is None else {str(file["path"]): file["sha256"] for file in report.files}


def _asked(example: Example, turns: str) -> Iterator[str]:
    """What stands before each turn of an example that is learned."""
    talk = tuple(Message(str(turn["role"]), content_of(turn)) for turn in example.messages)
    learned = [
        place for place, turn in enumerate(talk) if turn.role == "assistant" and place >= example.given
    ]
    for place in learned if turns == "all" else learned[-1:]:
        if place:
            yield flatten(talk[:place], roles=True)


def _changed(run: RunDir, hashes: Hashes) -> Iterator[str]:
    """A note for each file that is another one than the run read."""
    data = run.info().get("data") or {}
    files = data.get("files") or (data.get("train") or {}).get("files") or {}
    before = files if isinstance(files, Mapping) else {one["path"]: one["sha256"] for one in files}
    for file, digest in hashes.items():
        if before.get(file, digest) != digest:
            yield f"{file} changed since {run.path} was trained on it: what it held then may be among these"
