"""Fixes: what the static checks found, mended in a copy of the model folder.

A finding carries its fix in ``values["fix"]``: keys of a JSON file of the folder, an edit of the chat
template, rows of the weights, or settings of the training run. Nothing of the folder itself is changed.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from holdtrue.doctor.checks.vocabulary import ranges
from holdtrue.doctor.findings import Diagnosis, Finding
from holdtrue.doctor.json_text import edited
from holdtrue.doctor.rendering import common_prefix
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.weights import Tensor, Weights
from holdtrue.errors import DataError

ADAPTER, COPIED = "adapter_config.json", "adapter"
"""A corrected adapter is written into the folder ``adapter`` of the copy."""
JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", ADAPTER)
LONG, CONTEXT = 160, 30
"""Characters of a line from which on only the part that changes is shown, and what stands around it."""
TEMPLATE = "chat_template.jinja"
MASKS, SETTINGS = "masks.json", "settings_changes.json"
"""Files that are written beside the model: what to give to an engine, and to a trainer."""


@dataclass
class Plan:
    """What would be written.

    Attributes:
        files: name -> new text, of the files that change; ``adapter/...`` are the adapter's.
        mean_rows: ids whose embedding and head rows are drawn anew, as the trained rows are distributed.
        settings: settings of the run to change, by the keys of the program that trains.
        masked: ids to keep from being drawn.
        done: finding id -> what the copy changes about it.
        to_apply: finding id -> what is written for a person to give to the engine or the trainer.
        by_hand: finding id -> what a person has to do; no id stands in two of the three.
    """

    files: dict[str, str] = field(default_factory=dict)
    mean_rows: list[int] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    masked: list[int] = field(default_factory=list)
    done: dict[str, str] = field(default_factory=dict)
    to_apply: dict[str, str] = field(default_factory=dict)
    by_hand: dict[str, str] = field(default_factory=dict)

    def leave(self, finding: Finding, what: str) -> None:
        """Note what a person has to do; several findings of one check are joined."""
        before = self.by_hand.get(finding.id)
        self.by_hand[finding.id] = what if before in (None, what) else f"{before}\n{what}"

    def note(self, finding: Finding, what: str) -> None:
        """Note what the copy changes; several changes of one finding are joined."""
        before = self.done.get(finding.id, "").split("; ") if finding.id in self.done else []
        self.done[finding.id] = "; ".join(dict.fromkeys([*before, what]))

    def part(self) -> None:
        """Leave each finding in one list: what is mended in part is still a person's to do."""
        for id in self.by_hand:
            parts = [one[id] for one in (self.done, self.to_apply) if id in one]
            if parts:
                self.by_hand[id] += f"\n(in part: {'; '.join(parts)})"
        for id in self.by_hand:
            self.done.pop(id, None)
            self.to_apply.pop(id, None)
        for id in self.to_apply:
            if id in self.done:
                self.to_apply[id] += f"; changed in the copy: {self.done.pop(id)}"

    def settle(self, after: Diagnosis) -> None:
        """Put right by what a check of the copy finds: ``done`` is only what it finds no more."""
        known = {*self.to_apply, *self.by_hand}
        sick = [one for one in after.findings if one.severity != "ok"]
        for finding in sick:
            if finding.id not in known:
                self.leave(finding, finding.fix)
        self.part()
        clean = {one.id for one in after.findings} - {one.id for one in sick}
        for id in [id for id in self.by_hand if id in clean]:
            self.by_hand.pop(id)
            self.done[id] = "mended by the other changes"

    def diff(self, folder: Path, adapter: Path | None = None) -> Iterator[str]:
        """A unified diff of every file of the folder that changes, line by line; of a long line the part that
        changes. New files that a person has to apply are listed and not shown."""
        for name, text in sorted(self.files.items()):
            if name in (MASKS, SETTINGS):
                continue
            path = _source(folder, adapter, name)
            old = path.read_text(encoding="utf-8") if path.is_file() else ""
            lines = difflib.unified_diff(
                old.splitlines(), text.splitlines(), f"a/{name}", f"b/{name}", lineterm="", n=1
            )
            yield from _shortened(list(lines))


def plan(subject: Subject, diagnosis: Diagnosis, remedies: Collection[str] = ()) -> Plan:
    """Gather the fixes of all warnings and failures; the worst first, so that they win where two disagree.

    ``remedies`` are the data remedies that are applied beside it.
    """
    result = Plan()
    changes: dict[str, dict[str, Any]] = {}
    template = ""
    for finding in diagnosis.findings:
        fix = finding.values.get("fix")
        if finding.severity == "ok":
            continue
        if not isinstance(fix, Mapping) or not fix:
            result.leave(finding, finding.fix)
        for kind, value in (fix or {}).items():
            if kind == ADAPTER and subject.adapter is None:
                result.leave(finding, finding.fix)
            elif kind in JSON_FILES and isinstance(value, Mapping):
                changes[kind] = {**value, **changes.get(kind, {})}
                result.note(finding, f"{kind}: {', '.join(value)}")
            elif kind == "settings" and isinstance(value, Mapping):
                result.settings = {**value, **result.settings}
                changed = ", ".join(f"{name} = {json.dumps(one)}" for name, one in value.items())
                result.to_apply[finding.id] = f"{SETTINGS}: {changed}"
            elif kind == "chat_template" and isinstance(value, Mapping):
                template = template or subject.template.source
                template = f"{value.get('prepend', '')}{template}{value.get('append', '')}"
                result.note(finding, f"{TEMPLATE}: {', '.join(value)}")
            elif kind == "mean_rows":
                result.mean_rows = sorted({*result.mean_rows, *map(int, value)})
                result.note(finding, f"{len(value)} rows of the weights are drawn as the trained ones are")
            elif kind == "remedies" and value and set(value) <= set(remedies):
                result.note(finding, f"data.jsonl: {', '.join(value)}")
            else:
                result.leave(finding, finding.fix)
    result.files |= dict(_edited(subject, changes))
    if changes.get("tokenizer_config.json", {}).get("add_bos_token") is False:
        result.files |= _without_bos(subject)
    if template:
        result.files[TEMPLATE] = template
    if result.settings:
        result.files[SETTINGS] = _json(result.settings)
    if masks := _masks(diagnosis.findings):
        engines = ",\n".join(f"  {json.dumps(one)}: {json.dumps(value)}" for one, value in masks.items())
        result.files[MASKS] = f"{{\n{engines}\n}}\n"
        result.masked = list(masks["transformers"]["suppress_tokens"])
        result.to_apply["T04"] = f"{MASKS}: the phantom ids {ranges(result.masked)}, a line for each engine"
        result.by_hand.pop("T04", None)
    result.part()
    return result


def write(subject: Subject, found: Plan, output: Path) -> None:
    """Write the corrected copy; weights that do not change are linked where the disk allows it, else copied.

    Raises:
        DataError: the output exists, or lies in the folder.
    """
    folder = subject.folder
    if output.exists():
        raise DataError(f"{output} exists; a corrected copy is written to a new folder")
    if output.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{output} lies in {folder}, which is copied; give another folder")
    weights = Weights.of(folder) if found.mean_rows else None
    for matrix in _matrices(weights):
        matrix.check_writable()
    changed = {one.file.name for one in _matrices(weights)}
    half = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        _copy(folder, half, changed)
        if any(name.startswith(f"{COPIED}/") for name in found.files) and subject.adapter is not None:
            _copy(subject.adapter, half / COPIED, set())
        for name, text in found.files.items():
            (half / name).write_text(text, encoding="utf-8", newline="")
        for matrix in _matrices(Weights.of(half) if found.mean_rows else None):
            _initialise(matrix, found.mean_rows)
        half.rename(output)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _copy(folder: Path, target: Path, changed: set[str]) -> None:
    """All files of a folder, also behind links; weights that stay as they are become hard links."""
    for place, folders, files in os.walk(folder, followlinks=True):
        here = target / Path(place).relative_to(folder)
        here.mkdir(parents=True, exist_ok=True)
        folders[:] = [name for name in folders if name != ".git"]
        for name in files:
            source = Path(place) / name
            if not source.is_file():
                raise DataError(f"{source} is a link to nothing; mend or remove it")
            if name.endswith(".safetensors") and name not in changed:
                _link(source, here / name)
            else:
                shutil.copyfile(source, here / name)


def _source(folder: Path, adapter: Path | None, name: str) -> Path:
    own = name.removeprefix(f"{COPIED}/")
    return folder / name if own == name or adapter is None else adapter / own


def _edited(subject: Subject, changes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, values in changes.items():
        name = f"{COPIED}/{name}" if name == ADAPTER else name
        path = _source(subject.folder, subject.adapter, name)
        yield name, edited(_text(path) if path.is_file() else "{}\n", values)


def _without_bos(subject: Subject) -> dict[str, str]:
    """tokenizer.json whose post-processor no longer puts BOS first: the config's key does not change that."""
    path = subject.folder / "tokenizer.json"
    if not path.is_file():
        return {}
    text = _text(path)
    processor = json.loads(text).get("post_processor") or {}
    bos = subject.tokenizer.bos_token
    for one in (processor, *processor.get("processors", [])):
        for part in ("single", "pair"):
            if isinstance(one.get(part), list):
                one[part] = [item for item in one[part] if item.get("SpecialToken", {}).get("id") != bos]
    return {"tokenizer.json": edited(text, {"post_processor": processor}) if processor else text}


def _text(path: Path) -> str:
    """The text of a file, with its own line ends."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _masks(findings: Sequence[Finding]) -> Mapping[str, Any]:
    return next((one.values["masks"] for one in findings if one.id == "T04" and one.values.get("masks")), {})


def _matrices(weights: Weights | None) -> list[Tensor]:
    return [] if weights is None else [one for one in (weights.embedding, weights.head) if one is not None]


def _initialise(matrix: Tensor, ids: Iterable[int]) -> None:
    """Draw rows from a normal distribution with mean and variance of all other rows, each value by itself.

    The mean keeps the softmax as it was (Hewitt, 2021), the variance gives each token a direction of its own:
    equal rows cannot be told apart. The draw is the same every time.
    """
    chosen = np.array([id for id in ids if id < matrix.rows], dtype=np.int64)
    total, squares, count = np.zeros(matrix.width), np.zeros(matrix.width), 0
    for first, rows in matrix.chunks():
        keep = np.ones(len(rows), dtype=bool)
        keep[chosen[(chosen >= first) & (chosen < first + len(rows))] - first] = False
        total += rows[keep].sum(axis=0, dtype=np.float64)
        squares += np.square(rows[keep], dtype=np.float64).sum(axis=0)
        count += int(keep.sum())
    mean = total / max(count, 1)
    spread = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    draw = np.random.default_rng(0)
    for id in chosen.tolist():
        matrix.write(id, (mean + spread * draw.standard_normal(matrix.width)).astype(np.float32))


def _shortened(lines: Sequence[str]) -> Iterator[str]:
    """Lines of a diff; a long one that is replaced by its like as the part that differs, others cut."""
    queue = list(lines)
    while queue:
        removed = list(takewhile(lambda line: line[:1] == "-", queue))
        added = list(takewhile(lambda line: line[:1] == "+", queue[len(removed) :]))
        pairs = list(zip(removed, added, strict=False))
        shown = [_parts_that_differ(old[1:], new[1:]) for old, new in pairs]
        yield from (f"-{old}" for old, _ in shown)
        yield from map(_cut, removed[len(pairs) :])
        yield from (f"+{new}" for _, new in shown)
        yield from map(_cut, added[len(pairs) :])
        at = len(removed) + len(added)
        if not at:
            yield _cut(queue[0])
        queue = queue[max(at, 1) :]


def _parts_that_differ(old: str, new: str) -> tuple[str, str]:
    if max(len(old), len(new)) <= LONG:
        return old, new
    first = common_prefix(old, new)
    last = min(common_prefix(old[::-1], new[::-1]), min(len(old), len(new)) - first)
    start = max(0, first - CONTEXT)
    lead = old[:CONTEXT] + "..." if start > CONTEXT else old[:start]

    def part(text: str) -> str:
        end = min(len(text), len(text) - last + CONTEXT)
        return _cut(lead + text[start:end] + ("..." if end < len(text) else ""))

    return part(old), part(new)


def _cut(line: str) -> str:
    return line if len(line) <= 2 * LONG else f"{line[:LONG]}... ({len(line):,} characters)"


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
