"""``holdtrue ablate``: what each ingredient of a recipe is worth."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from holdtrue.cli import frame, running
from holdtrue.errors import SettingsError


def command(
    data: Annotated[
        list[str], typer.Argument(metavar="SETTINGS.yaml|DATA...", help="The full recipe, and pairs.")
    ],
    drops: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            metavar="KEY[=VALUE]",
            help="Put a setting back to its default, or to VALUE. Repeatable, each a comparison of its own.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Seeds of every recipe.")] = 3,
    model: frame.Model = None,
    output: frame.Output = None,
    eval_data: frame.HeldOut = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    overrides: frame.Overrides = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Measure what each ingredient of a recipe is worth, by training without it.

    The full recipe and every variant are trained with the same seeds and measured on the same held-out
    pairs; differences are paired, with intervals over prompts and seeds. The same command goes on where it
    was stopped, and trains only what --drop or --seeds added.
    """
    from rich.console import Group

    from holdtrue.experiments.ablation import ablate

    if output is None:
        raise SettingsError("say where the runs go: --output FOLDER")
    settings = frame.settings_from(
        data,
        model=model,
        format=format,
        columns=columns,
        flags={"data.eval": eval_data},
        overrides=overrides,
    )
    console = frame.console(stderr=True)

    def tell(event: str, values: dict[str, Any]) -> None:
        if event == "run":
            console.print(f"{values['name']}, seed {values['seed']}")
        elif event == "metrics" and values["event"] == "eval":
            numbers = "  ".join(f"{key} {running.number(values[key])}" for key in ("loss", "accuracy"))
            console.print(f"  step {values['step']:>6}  validation  {numbers}")
        elif event == "ended" and values["reason"]:
            console.print(f"  failed: {values['reason']}")

    with running.stoppable() as stop:
        result = ablate(
            settings, drops or [], seeds, output, tell=tell, stop=stop, trust_remote_code=trust_remote_code
        )
    return frame.Result(result, Group(_table(result), "", f"report   {result['report']}"))


def _table(result: dict[str, Any]) -> Any:
    rows = []
    for row in [result["full"], *result["variants"]]:
        cells = []
        for metric in ("accuracy", "loss"):
            measured = row[metric]
            cells.append("" if measured is None else f"{measured['value']:.4f}")
            cells.append("" if measured is None or row is result["full"] else _difference(measured))
        failed = f"{len(row['failed'])} of {len(result['seeds'])} seeds failed" if row["failed"] else ""
        rows.append((row["name"], *cells, failed))
    return frame.table(["recipe without", "accuracy", "difference", "log loss", "difference", ""], rows)


def _difference(measured: dict[str, Any]) -> str:
    interval = measured["interval"]
    bounds = f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else ""
    return f"{measured['difference']:+.4f}{bounds}"
