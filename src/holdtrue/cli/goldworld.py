"""``holdtrue goldworld``: ways to refresh a reward model, compared where the true reward is known."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from holdtrue import settings as plain
from holdtrue.cli import frame, running
from holdtrue.errors import SettingsError


def command(
    settings: Annotated[
        str | None, typer.Argument(metavar="[SETTINGS.yaml]", help="Settings of the experiment.")
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option("--arms", metavar="A,B,...", help="Ways to refresh (arms)."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, metavar="N", help="How many (seeds).")
    ] = None,
    output: frame.Output = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, metavar="N", help="Seeds run side by side. Default: one a core."),
    ] = None,
    overrides: frame.Overrides = None,
) -> frame.Result:
    """Measure what each way to refresh a reward model is worth where the true reward is known.

    The proxy is trained on noisy pairs of the support-desk world, a policy is optimised against it in rounds,
    and each arm refreshes it in its own way between them. An experiment that was stopped or killed goes on
    with the same command, or with --output FOLDER alone; more seeds and arms may be asked for later.
    """
    from holdtrue.experiments.goldworld.run import SETTINGS_FILE, goldworld
    from holdtrue.experiments.goldworld.settings import build, split_arms

    if output is None:
        raise SettingsError("say where the experiment goes: --output FOLDER")
    begun = output / SETTINGS_FILE
    values = plain.read(settings or (begun if begun.is_file() else None))
    values |= {"arms": list(split_arms(arms))} if arms else {}
    values |= {"seeds": seeds} if seeds else {}
    for override in overrides or ():
        plain.put(values, *plain.parse_override(override))
    console = frame.console(stderr=True)

    def tell(row: dict[str, Any]) -> None:
        console.print(f"seed {row['seed']:>2}  {row['arm'] or 'shared'}  {row['part']}")

    with running.stoppable() as stop:
        found = goldworld(
            build(values), output, processes=processes or os.cpu_count() or 1, tell=tell, stop=stop
        )
    return frame.Result(_shown(found), _render(found))


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """The result, with gold by KL under one name."""
    value = dict(found)
    for part in ("arms", "differences"):
        value[part] = {
            arm: own
            | {
                "gold_at_kl": {
                    key.rpartition("_")[2]: own[key] for key in own if key.startswith("gold_at_kl_")
                }
            }
            for arm, own in found[part].items()
        }
    return value


def _render(found: dict[str, Any]) -> Any:
    from rich.console import Group

    from holdtrue.report import goldworld as page
    from holdtrue.report.wording import measured

    shown = (
        "before_control_rate",
        "control_rate",
        "degenerate",
        "final_gold",
        "on_policy_accuracy",
        "refreshed_accuracy",
    )
    primary = f"gold_at_kl_{found['primary_kl']:g}"
    columns = {title: key for key, title in page.columns(found) if key in (*shown, primary)}
    rows = [
        (
            arm,
            len(own["seeds"]),
            *(measured(own[key]) for key in columns.values()),
            "" if arm == found["control"] else measured(found["primary"].get(arm), sign=True),
        )
        for arm, own in found["arms"].items()
    ]
    table = frame.table(["arm", "seeds", *columns, f"less {found['control']}, paired"], rows)
    return Group(table, "", page.headline(found), f"report   {found['folder']}/report.html")
