"""``holdtrue sweep``: search for good settings, every trial an ordinary run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from holdtrue.cli import frame, running
from holdtrue.errors import SettingsError


def command(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SETTINGS.yaml|DATA]...", help="Settings with a sweep section, and pairs."),
    ] = None,
    model: frame.Model = None,
    output: frame.Output = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, metavar="N", help="Trials in all (sweep.trials).")
    ] = None,
    eval_data: frame.HeldOut = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    overrides: frame.Overrides = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Search for good settings, every trial an ordinary run.

    The settings file names what is searched: "sweep: {space: {training.learning_rate: {low: 1e-5, high:
    1e-3, log: true}}}". A sweep that was stopped or killed goes on with the same command, or with --output
    FOLDER alone. The folder then holds best.yaml, sweep.json and report.html.
    """
    from rich.console import Group

    from holdtrue.experiments.sweep import SETTINGS_FILE, sweep

    if output is None:
        raise SettingsError("say where the sweep goes: --output FOLDER")
    if not data and (output / SETTINGS_FILE).is_file():
        data = [str(output / SETTINGS_FILE)]
    settings = frame.settings_from(
        data or [],
        model=model,
        format=format,
        columns=columns,
        flags={"data.eval": eval_data, "sweep.trials": trials},
        overrides=overrides,
    )
    with running.stoppable() as stop:
        result = sweep(settings, output, tell=_Teller(), stop=stop, trust_remote_code=trust_remote_code)
    words = [f"settings {result['settings']}", f"report   {result['report']}"]
    return frame.Result(result, Group(_table(result), "", *words))


class _Teller:
    """Says on stderr which trial runs, its validations, and what came of it."""

    def __init__(self) -> None:
        self.console = frame.console(stderr=True)

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        if event == "trial":
            chosen = ", ".join(f"{key}={_short(value)}" for key, value in values["values"].items())
            self.console.print(f"trial {values['number']} of {values['trials']}  {chosen}")
        elif event == "metrics" and values["event"] == "eval":
            numbers = "  ".join(f"{key} {running.number(values[key])}" for key in ("loss", "accuracy"))
            self.console.print(f"  step {values['step']:>6}  validation  {numbers}")
        elif event == "ended":
            found = [f"{key} {values[key]:.4f}" for key in ("loss", "accuracy") if values[key] is not None]
            self.console.print("  ".join([f"  {values['status']}", *found, values["reason"] or ""]).rstrip())


def _table(result: dict[str, Any]) -> Any:
    sign = 1 if result["metric"] == "loss" else -1
    finished = [row for row in result["trials"] if row["status"] == "finished"]
    others = [row for row in result["trials"] if row["status"] != "finished"]
    rows = [
        (
            row["number"],
            row["status"],
            *("" if row[key] is None else f"{row[key]:.4f}" for key in ("loss", "accuracy")),
            *(_short(row["values"].get(key)) for key in result["space"]),
            row["reason"] or "",
        )
        for row in [*sorted(finished, key=lambda row: sign * row[result["metric"]]), *others]
    ]
    return frame.table(["trial", "status", "log loss", "accuracy", *result["space"], "reason"], rows)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
