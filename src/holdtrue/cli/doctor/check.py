"""``holdtrue doctor check``: what is wrong with a model folder and its data before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import ModelError, QualityError, SettingsError, unknown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdtrue.data.examples import Examples
    from holdtrue.doctor.findings import Diagnosis, Finding
    from holdtrue.doctor.subject import Subject

REPORTS = ("W06", "X01", "X08")
"""Checks that answer questions: shown in full also where nothing is wrong."""
PARTS = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json")
HOLDS = "a model folder holds a tokenizer (tokenizer.json), config.json and weights (*.safetensors)"
STYLES = {"fail": "bold red", "warn": "yellow", "ok": "green"}


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder; one with only a tokenizer too.")]
Adapter = Annotated[
    Path | None,
    typer.Option("--adapter", metavar="FOLDER", help="LoRA adapter trained or to be trained on it."),
]
Data = Annotated[list[str] | None, typer.Option("--data", metavar="FILE", help="Training data. Repeatable.")]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="Settings of the training run (TRL, verl, OpenRLHF)."),
]
Uses = Annotated[str, typer.Option("--uses", metavar="NAMES", help="tools, thinking, multi-turn; by commas.")]


def command(
    model: Model,
    adapter: Adapter = None,
    data: Data = None,
    settings: SettingsFile = None,
    uses: Uses = "",
    glue: Annotated[
        str | None,
        typer.Option(
            "--glue",
            metavar="TEXT",
            help="What an environment writes between a tool call and the next answer, around {result}.",
        ),
    ] = None,
    forward: Annotated[
        bool,
        typer.Option(
            "--forward", help="Run the model too, on the CPU: does it end answers (W06)? Loads all weights."
        ),
    ] = False,
) -> frame.Result:
    """Examine a model folder, its template, settings and data before training.

    A finding is fail or warn: what was seen, what it leads to, what to do, and a reported case. What a fault
    weighs depends on use: tools, thoughts and several turns count when the data, the settings or --uses have
    them. Exit code 4 when anything fails.
    """
    one, unread = subject(model, adapter, data or [], settings, asked(uses), glue, forward)
    if forward:
        announce(one)
    diagnosis = examine(one)
    code = QualityError.exit_code if diagnosis.verdict == "fail" else 0
    return frame.Result({**diagnosis.as_json(), "unread": unread}, render(diagnosis, unread), code)


def examine(one: Subject) -> Diagnosis:
    """Make every check."""
    from holdtrue.doctor import checks

    return checks.examine(one)


def subject(
    model: Path,
    adapter: Path | None,
    data: list[str],
    settings: Path | None,
    uses: frozenset[str],
    glue: str | None = None,
    forward: bool = False,
) -> tuple[Subject, dict[str, int]]:
    """What is examined; with it how many rows of the data could not be read, by reason.

    Raises:
        ModelError: there is no such folder, or nothing of a model in it. DataError: a file is missing or
            cannot be read.
    """
    from holdtrue.doctor.subject import Subject

    for folder in (model, adapter):
        if folder is not None and not folder.is_dir():
            raise ModelError(f"{folder} is not a folder; {HOLDS}")
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter} holds no adapter_config.json; --adapter takes the folder PEFT writes")
    if not _is_of_model(model):
        within = [str(one) for one in sorted(model.iterdir()) if one.is_dir() and _is_of_model(one)]
        meant = f"; did you mean {' or '.join(within[:3])}?" if within else ""
        raise ModelError(f"{model} holds none of {', '.join(PARTS)} and no weights; {HOLDS}{meant}")
    examples: Examples | None = None
    values, unread = None, {}
    if data:
        from holdtrue.data.examples import ExampleFiles, read_examples

        if any(Path(one).is_fifo() for one in data):  # which can be read only once
            examples, report = read_examples(data)
        else:
            examples = ExampleFiles(data)
            report = examples.report
        unread = dict(report.faults)
    if settings is not None:
        from holdtrue.doctor.training_settings import read_settings

        values = read_settings(settings)
    return Subject(model, adapter, examples, values, uses, glue, forward), unread


def _is_of_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in PARTS) or any(folder.glob("*.safetensors"))


def announce(one: Subject) -> None:
    """Say what loading the model takes before anything else is done; nothing where no end is declared, or the
    model's files are none that can be run, as W06 is skipped then.

    Raises:
        ResourceError: the machine has not that much memory.
    """
    from holdtrue.doctor.findings import Missing
    from holdtrue.doctor.forward import Need

    with suppress(Missing):
        if one.stops:
            frame.console(stderr=True).print(f"--forward: {Need.of(one)}")


def asked(uses: str) -> frozenset[str]:
    """``"tools,thinking"`` as a set.

    Raises:
        SettingsError: a use nobody knows.
    """
    from holdtrue.doctor.subject import USES

    names = [name.strip() for name in uses.split(",") if name.strip()]
    for name in names:
        if name not in USES:
            raise SettingsError(unknown("use", name, USES))
    return frozenset(names)


def render(diagnosis: Diagnosis, unread: Mapping[str, int]) -> RenderableType:
    """The worst first, each with its reason and fix; reports; what is well in one line; what was skipped."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    sick = {one.id for one in diagnosis.findings if one.severity != "ok"}
    for one in diagnosis.findings:
        if one.severity != "ok" or one.id in REPORTS:
            state = "" if one.severity == "ok" and one.id in sick else one.severity
            parts += [_heading(one.id, state), Padding(_body(one), (0, 0, 1, 2), expand=False)]
    lists = Table.grid(padding=(0, 1))  # which wraps the ids of long lists below one another
    fine = list(dict.fromkeys(one.id for one in diagnosis.findings if one.id not in sick))
    if fine:
        lists.add_row(Text("ok", STYLES["ok"]), Text(", ".join(fine)))
    reasons: dict[str, list[str]] = {}
    for skipped in diagnosis.skipped:
        reasons.setdefault(skipped.why, []).append(skipped.id)
    for why, ids in reasons.items():
        lists.add_row(Text("skipped", "bold"), Text.assemble(", ".join(ids), (f": {why}", "dim")))
    parts.append(lists)
    parts += [
        Text(f"unread  {count} rows of the data: {why}", style="yellow") for why, count in unread.items()
    ]
    counts = {name: sum(one.severity == name for one in diagnosis.findings) for name in ("fail", "warn")}
    counts["ok"] = len(fine)
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing was checked"
    parts.append(
        Text(f"verdict {diagnosis.verdict}: {summary}, {len(diagnosis.skipped)} skipped", style="bold")
    )
    return Group(*parts)


def _heading(id: str, severity: str) -> RenderableType:
    from rich.text import Text

    from holdtrue.doctor.checks import named

    return Text.assemble((f"{severity:<5}", STYLES.get(severity, "")), (f"{id} {named(id)}", "bold"))


def _body(finding: Finding) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in (
        ("seen", finding.evidence),
        ("why", finding.why),
        ("fix", finding.fix),
        ("case", finding.source),
    ):
        if text:
            grid.add_row(label, Text(text))
    return grid
