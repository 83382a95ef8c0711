"""``holdtrue doctor fix``: a corrected copy of a model folder and its data, checked again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.cli.doctor import check
from holdtrue.errors import DataError, QualityError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdtrue.doctor.findings import Diagnosis


def command(
    model: check.Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Write the corrected copy here; else nothing is."
        ),
    ] = None,
    adapter: check.Adapter = None,
    data: check.Data = None,
    settings: check.SettingsFile = None,
    uses: check.Uses = "",
    remedies: Annotated[
        list[str] | None,
        typer.Option(
            "--remedy",
            metavar="NAME",
            help="Data remedy; its result is data.jsonl of the copy (holdtrue list remedies). Repeatable.",
        ),
    ] = None,
) -> frame.Result:
    """Mend what doctor check found, in a copy; without --output only show the difference.

    Changes configs, the chat template and untrained rows of the weights, and with --remedy the data; masks of
    phantom ids and settings to change are written beside them, for you to apply. What needs a person is
    listed. The copy is checked again, and what is found there counts as left: exit code 4 when something
    still fails.
    """
    from holdtrue.doctor import fixes
    from holdtrue.doctor.applying import how_to_apply

    if remedies and not data:
        raise DataError("--remedy changes training data; give it with --data")
    one, _ = check.subject(model, adapter, data or [], settings, check.asked(uses))
    before = check.examine(one)
    found = fixes.plan(one, before, remedies or [])
    rows, changed = remedied_rows(data or [], remedies or [], one.marks)
    after: Diagnosis | None = None
    if output is not None:
        fixes.write(one, found, output)
        if rows is not None:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (output / "data.jsonl").write_text(text, encoding="utf-8")
        given = [str(output / "data.jsonl")] if rows is not None else data or []
        mended = output / fixes.COPIED
        again, _ = check.subject(
            output, mended if mended.is_dir() else adapter, given, settings, check.asked(uses)
        )
        after = check.examine(again)
        found.settle(after)
    value = {
        "output": None if output is None else str(output),
        "done": found.done,
        "to_apply": found.to_apply,
        "how": how_to_apply(one.dialect, found.settings, found.masked),
        "by_hand": found.by_hand,
        "data": changed,
        "diff": list(found.diff(model, adapter)),
        "before": before.as_json(),
        "after": None if after is None else after.as_json(),
    }
    last = before if after is None else after
    code = QualityError.exit_code if last.verdict == "fail" else 0
    return frame.Result(value, render(value, after), code)


def remedied_rows(
    data: Sequence[str], names: Sequence[str], marks: Sequence[str] = ()
) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]]]:
    """The rows after all remedies in order, and what each changed; None without a remedy.

    ``marks`` are the model's control tokens, for the remedies that look for such.
    Rows that cannot be read are in none of them; the first entry counts them, where there are any.
    """
    if not names:
        return None, []
    from holdtrue import kinds
    from holdtrue.doctor.remedies import FAMILY, DataRemedy

    rows, unreadable = _rows(data)
    changed: list[dict[str, Any]] = []
    if unreadable:
        changed.append({"remedy": "not read, left out", "counts": dict(unreadable), "examples": []})
    for name in names:
        kind = kinds.load(FAMILY, name)
        remedy = kind(**({"tokens": marks} if "tokens" in kind.model_fields else {}))
        if not isinstance(remedy, DataRemedy):
            raise DataError(f"remedy {name} does not change data; see holdtrue list remedies")
        rows, changes = remedy.apply(rows)
        changed.append({"remedy": name, "counts": dict(changes.counts), "examples": changes.examples})
    return rows, changed


def _rows(data: Sequence[str]) -> tuple[list[dict[str, Any]], Counter[str]]:
    import hashlib

    from holdtrue.data.files import resources, rows

    found = [row for file in resources(data) for row in rows(file, hashlib.sha256())]
    lost = [row.fault.reason if row.fault else "empty row" for row in found if row.value is None]
    return [row.value for row in found if row.value is not None], Counter(lost)


def render(value: dict[str, Any], after: Diagnosis | None) -> RenderableType:
    """The difference where nothing is written; then what changes, what is to be applied, and what is left."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    colours = {"+": "green", "-": "red", "@": "cyan"}
    diff = value["diff"] if after is None else []
    parts: list[Any] = [Text(line, style=colours.get(line[:1], "")) for line in diff]
    would = "would be " if after is None else ""
    data = {
        one["remedy"]: ", ".join(f"{n} {what}" for what, n in one["counts"].items()) or "nothing to change"
        for one in value["data"]
    }
    for title, entries in (
        (f"{would}changed in the copy", {**value["done"], **data}),
        (f"{would}written for you to apply", {**value["to_apply"], **_lines(value["how"])}),
        ("still yours to do", value["by_hand"]),
    ):
        if entries:
            grid = Table.grid(padding=(0, 2))
            for name, what in entries.items():
                grid.add_row(Text(name), Text(what))
            parts += ["", Text(title, style="bold"), Padding(grid, (0, 0, 0, 2), expand=False)]
    parts.append("")
    verdict = value["before"]["verdict"]
    if after is None:
        parts.append(f"nothing was written; --output FOLDER writes the copy (verdict now: {verdict})")
    else:
        counts = (
            f"{len(value['done'])} mended, {len(value['to_apply'])} to apply, {len(value['by_hand'])} by hand"
        )
        parts.append(f"{value['output']}: {verdict} before, {after.verdict} after; {counts}")
    return Group(*parts)


def _lines(how: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {file: "\n".join(lines) for file, lines in how.items()}
