"""``holdtrue rounds``: a policy optimised and its reward model refreshed, again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holdtrue import settings as plain
from holdtrue.cli import frame, running
from holdtrue.cli.rl import Narrator as Optimisation
from holdtrue.errors import SettingsError
from holdtrue.rundir import RunDir

_COLUMNS = ("round", "KL", "reward", "spread", "accuracy", "refreshed", "degenerate", "labels")


def command(
    settings: Annotated[
        Path, typer.Argument(metavar="SETTINGS.yaml", help="Settings: reward, rl, refresh, rounds.")
    ],
    output: frame.Output = None,
    overrides: frame.Overrides = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Optimise a policy against a reward model and refresh the model, in rounds.

    After every round: KL to the first policy, spread of reward differences, distance of hidden states,
    accuracy on fresh labelled pairs before and after the refresh, and the share of degenerate answers.
    Stopped or killed rounds go on with "holdtrue resume RUN". See "recipes/rounds.yaml".
    """
    if output is None:
        raise SettingsError("say where the run goes: --output RUN")
    values = plain.read(settings)
    for override in overrides or ():
        plain.put(values, *plain.parse_override(override))
    from holdtrue.rounds.settings import build

    made = build(values)  # before the import that loads everything: a slip is said at once
    from holdtrue.rounds import run

    return carry(run.start(made, output), trust_remote_code)


def carry(run: RunDir, trust_remote_code: bool) -> frame.Result:
    """Carry rounds to their end, and return what came out."""
    from rich.console import Group

    from holdtrue.rounds import run as engine

    with running.stoppable() as stop:
        rows = engine.carry(run, tell=Narrator(), stop=stop, trust_remote_code=trust_remote_code)
    value = {"run": str(run.path), "rounds": rows, "policy": rows[-1]["policy"], "model": rows[-1]["model"]}
    words = [f"alarm    round {row['round']}: {row['alarm']}" for row in rows if row["alarm"]]
    words += [f"stopped  {rows[-1]['stopped']}"] if rows[-1]["stopped"] else []
    words += [
        f"policy   {value['policy']}",
        f"model    {value['model']}",
        f"report   {run.path / 'report.html'}",
    ]
    table = frame.table(list(_COLUMNS), [_cells(row) for row in rows])
    return frame.Result(value, Group(table, "", *words))


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    before, after = row["before"], row["after"]
    return (
        row["round"],
        _short(before["kl"]),
        f"{_short(row['reward']['from'])} -> {_short(row['reward']['to'])}",
        _short(before["relative_spread"]),
        _accuracy(before),
        _accuracy(after),
        f"{row['health']['rate']:.1%}",
        row["refresh"]["labels"],
    )


def _accuracy(shift: dict[str, Any]) -> str:
    if shift["accuracy"] is None:
        return ""
    return f"{shift['accuracy']:.3f} ({shift['low']:.3f} to {shift['high']:.3f})"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


class Narrator:
    """Tells on stderr which part runs, the steps of policy optimisation, and each round's outcome."""

    def __init__(self) -> None:
        self.console = frame.console(stderr=True)
        self._optimisation = Optimisation()

    def __call__(self, row: dict[str, Any]) -> None:
        if row["event"] == "part":
            where = f"round {row['round']}  " if row["round"] else ""
            self.console.print(f"{where}{row['part']}")
        elif row["event"] == "round":
            said = dict(zip(_COLUMNS, _cells(row), strict=True))
            self.console.print("  ".join(f"{name} {value}" for name, value in said.items() if value != ""))
        elif row["event"] in ("alarm", "rollback") or (row["event"] == "train" and "seconds_step" in row):
            self._optimisation(row)
