"""``holdtrue evaluate --policy``: the settings of a command line, and the numbers for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdtrue import settings as plain
from holdtrue.cli import frame
from holdtrue.errors import SettingsError


def evaluate(
    policies: Sequence[str],
    judges: Sequence[str],
    flags: Mapping[str, Any],
    overrides: Sequence[str],
    output: Path | None,
    trust_remote_code: bool,
) -> frame.Result:
    """Evaluate one policy, or two of them side by side.

    ``flags`` are settings by name; those that are None or empty were not given.
    """
    if not flags["data.prompts"]:
        raise SettingsError("nothing to evaluate on: give PROMPTS, rows that have a prompt")
    values: dict[str, Any] = {}
    for key, value in flags.items():
        if value not in (None, []):
            plain.put(values, key, value)
    for override in overrides:
        plain.put(values, *plain.parse_override(override))
    from holdtrue.policy.evaluation import build
    from holdtrue.policy.lineage import trace
    from holdtrue.policy_evaluation import evaluate_policies

    build(values)  # before files are read
    lineages = [trace(name) for name in policies]
    found = evaluate_policies(
        policies,
        judges,
        build(values, lineages),
        lineages,
        output=output,
        tell=frame.console(stderr=True).print,
        trust_remote_code=trust_remote_code,
    )
    return frame.Result(found, _text(found))


def _text(value: dict[str, Any]) -> Any:
    from rich.console import Group

    from holdtrue.report import policy_evaluation as report

    names = report.short_names(value)
    parts: list[Any] = [report.headline(value), f"{report.how(value)}", *report.left_out(value)]
    parts += [f"note     {note}" for note in value["notes"]]
    if value["against"] is not None:
        heads = ["judge", f"{names[0]} wins", "difference"]
        parts += ["", frame.table(heads, list(report.against(value)))]
    parts += ["", frame.table(["", *names], [(label, *cells) for label, cells in report.measures(value)])]
    for column, rows in value["slices"].items():
        (_, *heads), cells = report.slice_table(value, rows)
        parts += ["", frame.table([column, *heads], cells)]
    if value["output"] is not None:
        parts += ["", f"report   {Path(value['output']) / 'report.html'}"]
    return Group(*parts)
