"""``holdtrue compare``: several models on the same held-out comparisons, and whether they differ."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError, SettingsError
from holdtrue.rundir import RunDir, find_model

if TYPE_CHECKING:
    from holdtrue.records import Group
    from holdtrue.settings import DataSettings


def command(
    models: frame.Models,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="PATH", help="Preference pairs to compare on. Repeatable."),
    ] = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    overrides: frame.Overrides = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Compare models on the same held-out preference pairs.

    For each model the accuracy, for each two the paired difference with its interval and how often they
    agree, on the pairs that all of them could score. Without --data on the validation pairs of the runs,
    which must be the same. p is McNemar's, given where every pair has a prompt of its own.
    """
    from holdtrue.evaluation.comparison import compare

    if len(models) < 2:
        raise SettingsError(f"compare takes two models or more, got only {models[0]}")
    for model in models:
        if models.count(model) > 1:
            raise SettingsError(f"{model} is given twice")
        find_model(model)
    if not data and (format or columns):
        raise SettingsError("--format and --column say how --data is read, and no --data is given")
    settings = frame.settings_from([], format=format, columns=columns, overrides=overrides)
    same = None if data else _validation(models)
    groups: list[Group] = []
    rewards = {}
    for model in models:
        read, rewards[model] = _score(model, data or [], same, settings.data, trust_remote_code)
        if groups and [group.source for group in read] != [group.source for group in groups]:
            raise DataError(f"{model} reads other rows of the data than {models[0]} (data.plain_text)")
        groups = groups or read
    value = {"data": data or "validation"} | compare(groups, rewards, settings.evaluation.confidence)
    return frame.Result(value, _text(value))


def _score(
    model: str, data: list[str], same: list[Group] | None, settings: DataSettings, trust: bool
) -> tuple[list[Group], list[Any]]:
    """The groups as one model reads them, and its rewards."""
    from holdtrue.cli import scoring
    from holdtrue.data.splits import read_groups

    judge = scoring.load(Path(model), settings, trust)
    groups = read_groups(data, judge.data, None)[0] if same is None else same
    return groups, judge.scorer.score(groups)


def _validation(models: list[str]) -> list[Group]:
    """The validation groups of the runs.

    Raises:
        SettingsError: they are not the same, or one is not of a run or held nothing out.
    """
    from holdtrue import job

    hint = "name pairs to compare on with --data"
    found: dict[str, list[Group]] = {}
    for model in models:
        if not RunDir(model).settings_file.is_file():
            raise SettingsError(f"{model} is a model folder, not a run with validation pairs; {hint}")
        groups = job.validation_groups(RunDir.open(model))
        if not groups:
            raise SettingsError(f"{model} held out no validation pairs; {hint}")
        found[_digest(groups)] = groups
        if len(found) > 1:
            raise SettingsError(f"{models[0]} and {model} have different validation pairs; {hint}")
    return groups


def _digest(groups: list[Group]) -> str:
    """Hash of prompts, answers and comparisons, in their order."""
    digest = sha256()
    for group in groups:
        texts = [group.prompt_key, [answer.text for answer in group.answers]]
        pairs = [(c.first, c.second, c.label) for c in group.comparisons]
        digest.update(json.dumps([texts, pairs]).encode())
    return digest.hexdigest()


def _text(value: dict[str, Any]) -> Any:
    from rich.console import Group as Stacked

    data = value["data"] if isinstance(value["data"], str) else ", ".join(value["data"])
    head = f"{value['count']:,} comparisons of {value['prompts']:,} prompts in {data}"
    if value["unscored_comparisons"]:
        head += f"; {value['unscored_comparisons']:,} left out that not every model could score"
    if value["label_ties"]:
        head += f"; {value['label_ties']:,} left out that raters tied"
    rows = [(name, *_rate(row), row["ties"]) for name, row in value["models"].items()]
    rows += [(name.replace("_", " "), *_rate(row), row["ties"]) for name, row in value["baselines"].items()]
    pairs = [
        (
            f"{pair['first']} − {pair['second']}",
            f"{100 * pair['difference']:+.1f} points",
            "too few prompts" if pair["interval"] is None else "{:+.1f} – {:+.1f}".format(*_points(pair)),
            "" if pair["p"] is None else f"{pair['p']:.2g}",
            f"{pair['agreement']:.1%}",
        )
        for pair in value["pairs"]
    ]
    return Stacked(
        head + "\n",
        frame.table(["model", "accuracy", "interval", "ties"], rows),
        "",
        frame.table(["difference", "accuracy", "interval", "p", "agreement"], pairs),
    )


def _rate(row: dict[str, Any]) -> tuple[str, str]:
    low, high = row["interval"]
    return f"{row['accuracy']:.1%}", f"{low:.1%} – {high:.1%}"


def _points(pair: dict[str, Any]) -> list[float]:
    return [100 * bound for bound in pair["interval"]]
