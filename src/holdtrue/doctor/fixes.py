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
from pathlib import Path
from typing import Any

import numpy as np

from holdtrue.doctor.findings import Diagnosis, Finding
from holdtrue.doctor.json_text import edited
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.weights import Tensor, Weights
from holdtrue.errors import DataError

ADAPTER, COPIED = "adapter_config.json", "adapter"
"""A corrected adapter is written into the folder ``adapter`` of the copy."""
JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", ADAPTER)
TEMPLATE = "chat_template.jinja"
MASKS, SETTINGS = "masks.json", "settings_changes.json"
"""Files that are written beside the model: what to give to an engine, and to a trainer."""


@dataclass
class Plan:
    """What would be written.

    Attributes:
        files: name -> new text, of the files that change; ``adapter/...`` are the adapter's.
        mean_rows: ids whose embedding and head rows are drawn anew, as the trained rows are distributed.
        done: finding id -> what is done about it.
        by_hand: finding id -> what a person has to do.
        removed: files that the copy leaves out.
    """

    files: dict[str, str] = field(default_factory=dict)
    mean_rows: list[int] = field(default_factory=list)
    done: dict[str, str] = field(default_factory=dict)
    by_hand: dict[str, str] = field(default_factory=dict)

    def leave(self, finding: Finding, what: str) -> None:
        """Note what a person has to do; several findings of one check are joined."""
        before = self.by_hand.get(finding.id)
        self.by_hand[finding.id] = what if before in (None, what) else f"{before}; {what}"

    def diff(self, folder: Path, adapter: Path | None = None) -> Iterator[str]:
        """A unified diff of every file that changes, line by line."""
        for name, text in sorted(self.files.items()):
            path = _source(folder, adapter, name)
            old = path.read_text(encoding="utf-8") if path.is_file() else ""
            lines = difflib.unified_diff(
                old.splitlines(), text.splitlines(), f"a/{name}", f"b/{name}", lineterm="", n=1
            )
            yield from lines


def plan(subject: Subject, diagnosis: Diagnosis, remedies: Collection[str] = ()) -> Plan:
    """Gather the fixes of all warnings and failures; the worst first, so that they win where two disagree.

    ``remedies`` are the data remedies that are applied beside it.
    """
    result = Plan()
    changes: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    template = ""
    for finding in diagnosis.findings:
        fix = finding.values.get("fix")
        if finding.severity == "ok":
            continue
        if not isinstance(fix, Mapping) or not fix:
            result.leave(finding, finding.fix)
        for kind, value in (fix or {}).items():
            if kind in JSON_FILES and isinstance(value, Mapping):
                changes[kind] = {**value, **changes.get(kind, {})}
                result.done[finding.id] = f"{kind}: {', '.join(value)}"
            elif kind == "settings" and isinstance(value, Mapping):
                settings = {**value, **settings}
                result.done[finding.id] = f"{SETTINGS}: {', '.join(value)}"
            elif kind == "chat_template" and isinstance(value, Mapping):
                template = template or subject.template.source
                template = f"{value.get('prepend', '')}{template}{value.get('append', '')}"
                result.done[finding.id] = f"{TEMPLATE}: {', '.join(value)}"
            elif kind == "mean_rows":
                result.mean_rows = sorted({*result.mean_rows, *map(int, value)})
                result.done[finding.id] = (
                    f"{len(value)} rows of the weights are drawn as the trained ones are"
                )
            elif kind == "remedies" and value and set(value) <= set(remedies):
                result.done[finding.id] = f"data.jsonl: {', '.join(value)}"
            else:
                result.leave(finding, finding.fix)
    if subject.adapter is None:
        changes.pop(ADAPTER, None)
    result.files |= dict(_edited(subject, changes))
    if changes.get("tokenizer_config.json", {}).get("add_bos_token") is False:
        result.files |= _without_bos(subject)
    if template:
        result.files[TEMPLATE] = template
    if settings:
        result.files[SETTINGS] = _json(settings)
    if masks := _masks(diagnosis.findings):
        result.files[MASKS] = _json(masks)
        result.done.setdefault("T04", f"{MASKS}: the phantom ids, for each engine")
        result.by_hand.pop("T04", None)
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


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
