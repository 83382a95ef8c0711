"""``holdtrue convert``: data read in any layout, transformed, and written in one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError, SettingsError
from holdtrue.rundir import disk_errors, write_bytes

if TYPE_CHECKING:
    from holdtrue.data.reader import ReadReport
    from holdtrue.data.transforms import Transform
    from holdtrue.data.writing import Writer
    from holdtrue.records import Group


def command(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Files, directories or hub:owner/name[:split].")
    ],
    output: frame.Output = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="LAYOUT", help="By default what holds most of the data."),
    ] = None,
    apply: Annotated[
        list[str] | None,
        typer.Option(
            "--apply",
            metavar="TRANSFORM",
            help="A name, or '{kind: best_worst, min_gap: 0.2}'. Repeatable, in order.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME=SHARE", help="Hold out prompts: eval=0.1."),
    ] = None,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Drop repeated rows first, before the split.")
    ] = False,
    format: frame.Format = None,
    columns: frame.Columns = None,
    plain_text: Annotated[
        Literal["chat", "raw"],
        typer.Option("--plain-text", help="Plain strings become messages (chat) or stay as they are (raw)."),
    ] = "chat",
) -> frame.Result:
    """Write data of any layout in another one, transformed or split, and say what was changed and lost.

    FILE holds JSON lines, gzipped when it ends with .gz; one that exists is not replaced. With --split,
    FILE.jsonl becomes FILE.train.jsonl and FILE.eval.jsonl: a prompt's side depends on nothing but the
    prompt, and transforms change the training side, the other only where they make its labels. Metadata
    columns are kept. Unreadable rows are listed in FILE.rejected.jsonl.
    """
    from holdtrue.data import formats, transforms
    from holdtrue.data.splits import split_by_prompt, transform_splits
    from holdtrue.data.writing import Writer, best_layout

    if output is None:
        raise SettingsError("say where the rows go: --output FILE")
    if output.is_dir():
        raise DataError(f"cannot write {output}: it is a directory")
    chosen = [transform(text) for text in apply or ()]
    name, share = held_out(split) if split else ("", 0.0)
    paths = {"train": beside(output, "train"), "eval": beside(output, name)} if split else {"train": output}
    _refuse(paths.values())
    layout = None if to is None else formats.to_write(to)
    options = {"format": format, "columns": frame.columns_from(columns), "plain_text": plain_text}
    groups, report = _read(data, options, output)
    changes: list[dict[str, Any]] = []
    if dedupe:
        groups, changes = transforms.apply([transforms.named("dedupe")], groups)
    train, rest, changed = transform_splits(chosen, *split_by_prompt(groups, share))
    for side, path in paths.items():
        changes += [change | ({"file": str(path)} if split else {}) for change in changed.get(side, [])]
    layout = layout or formats.named(best_layout([*train, *rest]))
    writer = Writer(layout(plain_text=plain_text))
    sides = {"train": train, "eval": rest}
    texts = {path: _lines(sides[side], writer, path) for side, path in paths.items()}
    for path, lines in texts.items():
        _store(path, "".join(lines).encode("utf-8", "backslashreplace"))
    return _result({str(path): len(lines) for path, lines in texts.items()}, report, changes, writer)


def transform(text: str) -> Transform:
    """The transform of ``--apply``: a name, or a YAML mapping with ``kind``.

    Raises:
        SettingsError: it is neither, or there is no such transform.
    """
    import yaml

    from holdtrue.data import transforms

    try:
        return transforms.named(yaml.safe_load(text))
    except yaml.YAMLError:
        raise SettingsError(
            f"--apply takes a name or a mapping, got {text!r}, e.g. '{{kind: best_worst, min_gap: 0.2}}'"
        ) from None


def held_out(text: str) -> tuple[str, float]:
    """``"eval=0.1"`` as ("eval", 0.1).

    Raises:
        SettingsError: it has another form, or the share is not between 0 and 1.
    """
    name, _, share = text.partition("=")
    try:
        fraction = float(share)
    except ValueError:
        fraction = 0.0
    if not name.isidentifier() or name == "train" or not 0 < fraction < 1:
        raise SettingsError(
            f"--split takes NAME=SHARE with a share between 0 and 1, got {text!r}, e.g. eval=0.1"
        )
    return name, fraction


def beside(path: Path, side: str) -> Path:
    """``pairs.jsonl.gz`` as ``pairs.eval.jsonl.gz``."""
    stem, dot, suffix = path.name.partition(".")
    return path.with_name(f"{stem}.{side}{dot}{suffix}")


def _refuse(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.name.endswith((".parquet", ".json", ".json.gz")):
            raise SettingsError(
                f"rows are written as JSON lines; call it {path.name.partition('.')[0]}.jsonl"
            )
        if path.is_file():
            raise DataError(f"{path} exists and is not replaced; choose another --output")


def _read(data: Sequence[str], options: Mapping[str, Any], output: Path) -> tuple[list[Group], ReadReport]:
    from holdtrue.data.reader import Reader

    rejected = output.with_name(output.name + ".rejected.jsonl")
    with disk_errors(rejected):
        rejected.unlink(missing_ok=True)
    reader = Reader(data, rejected=rejected, **options)
    groups = list(reader)
    reader.report.require_rows()
    return groups, reader.report


def _lines(groups: Sequence[Group], writer: Writer, path: Path) -> list[str]:
    rows = (row for group in groups for row in writer.rows(group))
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    if not lines:
        reasons = ", ".join(f"{count:,} {why}" for why, count in writer.left_out.most_common())
        why = reasons or "no prompts are on its side"
        raise DataError(f"no row for {path} as {writer.layout.name()}: {why}")
    return lines


def _store(path: Path, data: bytes) -> None:
    with disk_errors(path):
        if path.exists():  # a pipe or a device
            path.write_bytes(data)
        else:
            write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _result(
    rows: dict[str, int], report: ReadReport, changes: list[dict[str, Any]], writer: Writer
) -> frame.Result:
    from holdtrue.data.transforms import sentence

    layout = writer.layout.name()
    value = {
        "layout": layout,
        "files": [{"path": path, "rows": count} for path, count in rows.items()],
        "rejected": dict(report.rejected),
        "transformed": changes,
        "left_out": dict(writer.left_out),
        "lost": dict(writer.lost),
    }
    written = [f"{count:,} rows in {path} ({layout})" for path, count in rows.items()]
    made = [sentence(change) + (f" ({change['file']})" if "file" in change else "") for change in changes]
    left_out = dict(report.rejected + writer.left_out)
    counts = {"left out": left_out, f"not held by {layout}": dict(writer.lost)}
    missing = [
        f"{what}: " + ", ".join(f"{n:,} {why}" for why, n in found.items())
        for what, found in counts.items()
        if found
    ]
    return frame.Result(value, "\n".join([*written, *made, *(missing or ["nothing left out or lost"])]))
