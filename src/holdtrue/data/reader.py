"""Reader: data files of any supported layout as a stream of groups, with an account of every row.

    reader = Reader(["pairs.jsonl.gz"], columns={"margin": "strength"})
    groups = list(reader)
    reader.report.require_rows()

A row that cannot be used is quarantined (counted, and written to a file when one is given) or stops
the reading; it never takes other rows with it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TextIO

from holdtrue.data import files, formats
from holdtrue.data.fields import BadRow
from holdtrue.data.formats import Format
from holdtrue.errors import DataError, SettingsError, unknown
from holdtrue.records import Group, Source
from holdtrue.rundir import disk_errors


@dataclass
class ReadReport:
    """What became of the rows. ``rows == kept + rejected.total()`` once the reading is over.

    Attributes:
        rows: rows met; a damaged gzip or Parquet file counts as one more, rejected. Blank lines are no rows.
        kept: rows that gave a group.
        rejected: reason -> rows.
        repaired: what was mended -> rows (these are kept).
        files: per file ``path, sha256, rows, kept, format`` (layouts met, most frequent first; the hash
            is null for hub data sets).
        examples: reason -> the first three as ``{"at": "file:line", "detail": ...}``.
    """

    rows: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values, as ``run.json`` keeps them."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "rejected": dict(self.rejected.most_common()),
            "repaired": dict(self.repaired.most_common()),
            "files": self.files,
        }

    def require_rows(self) -> None:
        """Refuse to go on with nothing.

        Raises:
            DataError: no row was usable; says the most frequent reason.
        """
        if self.kept:
            return
        where = ", ".join(str(file["path"]) for file in self.files[:3])
        if not self.rejected:
            raise DataError(f"no rows in {where or 'no file'}")
        reason, times = self.rejected.most_common(1)[0]
        example = self.examples[reason][0]
        detail = f", {example['detail']}" if example["detail"] else ""
        unlike = reason in ("not JSON", "truncated last line")
        hint = "; read are JSONL, JSON arrays, both also gzipped, and Parquet" if unlike else ""
        raise DataError(
            f"no usable rows in {where}: {times} of {self.rows} rejected because: {reason} "
            f"(first at {example['at']}{detail}){hint}"
        )


class Reader:
    """Groups of one or more files, in their order, read as a stream.

    Args:
        paths: files (JSONL, JSON arrays, both also gzipped, Parquet), directories (all data files in
            them, sorted) and ``hub:owner/name[:split]``.
        format: name of the layout; by default each row's is recognised from its columns.
        columns: other names for columns, ``{"margin": "strength"}`` reads the margin from ``strength``;
            an empty name stands for no column.
        on_bad_row: ``quarantine`` leaves the row out and counts it, ``strict`` raises DataError.
        plain_text: what plain strings become, see :class:`~holdtrue.data.formats.Format`.
        rejected: file that each rejected row is appended to as JSONL, at every pass.

    Raises:
        DataError: a path does not exist. SettingsError: an unknown format or column name.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        on_bad_row: Literal["quarantine", "strict"] = "quarantine",
        plain_text: Literal["chat", "raw"] = "chat",
        rejected: Path | None = None,
    ) -> None:
        self.report = ReadReport()
        self._resources = files.resources(paths)
        self._format = None if format is None else formats.named(format)
        self._columns = dict(columns or {})
        self._strict = on_bad_row == "strict"
        self._plain_text = plain_text
        self._rejected = rejected
        self._layouts: dict[type[Format], tuple[Format, frozenset[str]]] = {}
        known = {name for found in self._candidates() for name in found.columns}
        for name in self._columns:
            if name not in known:
                raise SettingsError(unknown("column", name, known))

    def __iter__(self) -> Iterator[Group]:
        """A pass over the files; ``report`` is made anew and filled on the way."""
        self.report = report = ReadReport()
        with ExitStack() as stack:
            quarantine: TextIO | None = None
            for path in self._resources:
                digest = hashlib.sha256()
                account: dict[str, Any] = {"path": path, "sha256": None, "rows": 0, "kept": 0, "format": None}
                report.files.append(account)
                layouts: Counter[str] = Counter()
                for raw in files.rows(path, digest):
                    report.rows += 1
                    account["rows"] += 1
                    report.repaired.update(raw.repairs)
                    try:
                        group, layout = self._group(raw, path)
                    except BadRow as fault:
                        self._note(path, raw, fault)
                        if self._rejected is not None:
                            with disk_errors(self._rejected):
                                if quarantine is None:
                                    quarantine = stack.enter_context(
                                        open(self._rejected, "a", encoding="utf-8")
                                    )
                                quarantine.write(
                                    json.dumps(rejection(path, raw, fault), ensure_ascii=False) + "\n"
                                )
                                quarantine.flush()
                        continue
                    report.kept += 1
                    account["kept"] += 1
                    layouts[layout] += 1
                    account["format"] = ", ".join(name for name, _ in layouts.most_common())
                    yield group
                if not path.startswith(files.HUB):
                    account["sha256"] = digest.hexdigest()

    def _group(self, raw: files.RawRow, path: str) -> tuple[Group, str]:
        if raw.value is None:
            raise raw.fault or BadRow("empty row")
        row = self._renamed(raw.value)
        if self._format is None:
            found = formats.recognise(row)
        else:
            found = self._format
            formats.require(found, row)
        if found not in self._layouts:
            used = frozenset(self._columns.get(name, name) for name in found.columns)
            self._layouts[found] = found(plain_text=self._plain_text), used
        layout, used = self._layouts[found]
        for name, actual in self._columns.items():
            if actual and actual not in raw.value and name in found.columns:
                raise BadRow("missing column", f"no column {actual!r}, which {name} is to be read from")
        group = layout.parse(row)
        others = {name: value for name, value in raw.value.items() if name not in used}
        return (
            replace(
                group,
                meta=others | dict(group.meta),
                source=Source(path, raw.line, raw.offset),
                row=raw.value,
            ),
            layout.name(),
        )

    def _renamed(self, row: dict[str, Any]) -> dict[str, Any]:
        if not self._columns:
            return row
        renamed = {name: value for name, value in row.items() if name not in self._columns}
        renamed.update({name: row[actual] for name, actual in self._columns.items() if actual in row})
        return renamed

    def _candidates(self) -> Sequence[type[Format]]:
        return formats.classes() if self._format is None else (self._format,)

    def _note(self, path: str, raw: files.RawRow, fault: BadRow) -> None:
        if self._strict:
            place = f"{path}, line {raw.line}" + ("" if raw.offset is None else f" (byte {raw.offset})")
            raise DataError(f"{place}: {fault}")
        self.report.rejected[fault.reason] += 1
        examples = self.report.examples.setdefault(fault.reason, [])
        if len(examples) < 3:
            examples.append({"at": f"{path}:{raw.line}", "detail": fault.detail})


def rejection(path: str, raw: files.RawRow, fault: BadRow) -> dict[str, Any]:
    """A row of ``rejected.jsonl``: where a row stands that cannot be used, and why."""
    text = raw.text
    if raw.value is not None:
        text = json.dumps(raw.value, ensure_ascii=False)[:200]
    return {
        "file": path,
        "line": raw.line,
        "offset": raw.offset,
        "reason": fault.reason,
        "detail": fault.detail,
        "text": text,
    }
