"""What a report is made of, read from the files of a run directory."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdtrue.rundir import RunDir, read_jsonl, read_object

_MOST_EXAMPLES = 3

_LEFT_OUT = {
    "rejected": "could not be read",
    "dropped": "left out",
    "cut": "cut to fit",
    "repaired": "repaired and used",
}


@dataclass(frozen=True)
class LeftOut:
    """Rows of one split that one reason kept out, or changed, with the places of the first few."""

    split: str
    what: str
    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """A run, as far as it got. What is not there yet is empty, and ``evaluation`` is None."""

    name: str
    info: dict[str, Any]
    settings: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    left_out: list[LeftOut]
    left_out_files: list[str]


def read_sources(run: RunDir) -> Sources:
    """Everything the report needs.

    Raises:
        DataError: a file of the run is there but broken.
    """
    info = run.info()
    return Sources(
        name=run.path.resolve().name,
        info=info,
        settings=run.settings(),
        metrics=run.metrics(),
        evaluation=read_object(run.evaluation_file) if run.evaluation_file.exists() else None,
        left_out=_left_out(run, info.get("data") or {}),
        left_out_files=run.left_out_files,
    )


def facts(sources: Sources) -> Iterator[tuple[str, Any]]:
    """(name, value) of versions, hashes and files: what run.json says besides the counts of rows."""
    info = {
        key: value
        for key, value in sources.info.items()
        if key not in ("data", "launch") and value is not None
    }
    yield from flatten(info)
    for split, report in (sources.info.get("data") or {}).items():
        for key in ("rows", "kept", "comparisons", "prompts", "trees", "tokens_unique", "tokens_real"):
            if report.get(key) is not None:
                yield f"data.{split}.{key}", f"{report[key]:,}"
        for file in report.get("files") or []:
            yield f"data.{split}.files", f"{file.get('path')} (sha256 {file.get('sha256')})"
    if sources.evaluation:
        yield "evaluation.model_hash", str(sources.evaluation.get("model_hash"))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of nested values, the keys joined by dots, what is no text as JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _left_out(run: RunDir, data: dict[str, Any]) -> list[LeftOut]:
    """Counts from run.json, or where it has none yet, from the files themselves."""
    examples: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    found: Counter[tuple[str, str, str]] = Counter()
    for what, file in (("rejected", run.rejected_file), ("dropped", run.dropped_file)):
        for row in _rows(file):
            key = row.get("split", "both"), what, row["reason"]
            found[key] += 1
            places = examples[key]
            if len(places) < _MOST_EXAMPLES:
                places.append(_place(row))
    counts = {
        (split, what, reason): count
        for split, report in data.items()
        for what in _LEFT_OUT
        for reason, count in (report.get(what) or {}).items()
    }
    return [
        LeftOut(
            split,
            _LEFT_OUT[what],
            reason,
            count,
            tuple(examples.get((split, what, reason)) or examples.get(("both", what, reason)) or ()),
        )
        for (split, what, reason), count in sorted((counts or found).items(), key=_most_first)
    ]


def _most_first(item: tuple[tuple[str, str, str], int]) -> tuple[Any, ...]:
    (split, what, reason), count = item
    return (split != "train", split, list(_LEFT_OUT).index(what), -count, reason)


def _place(row: dict[str, Any]) -> str:
    # examples of a policy say where they stand in one word
    where = Path(row["at"]).name if "at" in row else f"{Path(str(row.get('file'))).name}:{row.get('line')}"
    return f"{where} ({row['detail']})" if row.get("detail") else where


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return read_jsonl(path) if path.exists() else iter(())
