"""``holdtrue shift``: how far policies have moved, and what a reward model makes of their rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import SettingsError, unknown
from holdtrue.records import Rollout

_COLUMNS = {
    "KL": ("kl",),
    "reward": ("reward",),
    "spread": ("spread",),
    "of reference": ("relative_spread",),
    "J": ("difference",),
    "disagreement": ("disagreement",),
    "Mahalanobis": ("mahalanobis",),
    "own of reference": ("reference_mahalanobis",),
    "proxy gap": ("proxy_gap",),
    "accuracy": ("accuracy", "low", "high"),
}


def command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run, model or ensemble that gives the rewards.")
    ],
    files: Annotated[
        list[str], typer.Argument(metavar="ROLLOUTS...", help="Rollouts: files, folders of files, or runs.")
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="NAME", help="Policy the others are set beside. Default: the first."
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option("--held-out", metavar="RUN", help="A model that no policy was optimised against."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", metavar="FILE", help="Comparisons of the rollouts' answers. Repeatable."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
) -> frame.Result:
    """Measure how policies have shifted away from what a reward model was trained on.

    For each policy (or step) among the rollouts of any engine: the spread of reward differences within
    prompts and J, the distance of hidden states from the reference's, the disagreement of an ensemble's
    members, the lead of this model over a held-out one, and the accuracy on labelled pairs. KL is said where
    the rows have a column log_ratio, log-probability under the policy less that under the reference.
    """
    from holdtrue.cli import scoring
    from holdtrue.data.splits import read_groups
    from holdtrue.doctor.sources import read_rollouts
    from holdtrue.refresh.answers import together
    from holdtrue.refresh.labels import compared, recorded
    from holdtrue.refresh.probe import probe, shift
    from holdtrue.settings import DataSettings

    dump = read_rollouts(files)
    judge = scoring.load(run, DataSettings(), trust_remote_code)
    parts = _parts(dump.rollouts)
    base = reference or next(iter(parts))
    if base not in parts:
        raise SettingsError(unknown("policy", base, parts))
    groups = {name: together(own, judge.data.plain_text) for name, own in parts.items()}
    other = scoring.load(held_out, DataSettings(), trust_remote_code).scorer if held_out else None
    known = read_groups(labels, judge.data, None)[0] if labels else []
    probes = {name: probe(judge.scorer, own, other) for name, own in groups.items()}
    rater = recorded(known)
    found = {
        name: shift(own, probes[base], compared(rater, own.groups) if known else None)
        for name, own in probes.items()
    }
    value = {
        "model": str(run),
        "reference": base,
        "policies": {name: one.as_json() for name, one in found.items()},
        "unreadable": dict(dump.unreadable),
    }
    return frame.Result(value, _render(value))


def _parts(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """Rollouts by policy, by step where no policy is named, in order of appearance."""
    named = any(one.policy is not None for one in rollouts)
    parts: dict[str, list[Rollout]] = {}
    for one in rollouts:
        name = one.policy if named else None if one.step is None else f"step {one.step}"
        parts.setdefault(name or "unnamed", []).append(one)
    return parts


def _render(value: dict[str, Any]) -> Any:
    from rich.console import Group as Lines

    policies = value["policies"]
    shown = {
        head: names
        for head, names in _COLUMNS.items()
        if any(one[names[0]] is not None for one in policies.values())
    }
    rows = [
        (name, one["prompts"], one["answers"], *(_cell(one, names) for names in shown.values()))
        for name, one in policies.items()
    ]
    said = f"set beside {value['reference']}; a falling spread is an alarm, a rising one no praise"
    bad = [f"not read: {count:,} rows, {reason}" for reason, count in value["unreadable"].items()]
    return Lines(frame.table(["policy", "prompts", "answers", *shown], rows), "", said, *bad)


def _cell(one: dict[str, Any], names: tuple[str, ...]) -> str:
    if one[names[0]] is None:
        return ""
    first, *interval = (f"{one[name]:.3g}" for name in names)
    return f"{first} ({' to '.join(interval)}, n={one['labels']})" if interval else first
