"""``holdtrue combine``: several models as one, an ensemble, a mean of weights or a policy's log-ratio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdtrue.cli import frame
from holdtrue.errors import ModelError, SettingsError
from holdtrue.rundir import disk_errors, find_model, require_empty
from holdtrue.settings import DataSettings

if TYPE_CHECKING:
    from holdtrue.reward.ensemble import Scaled

By = Literal["mean", "min", "mean_minus_std", "weights", "implicit"]
_ALIKE = 0.9


def command(
    models: frame.Models,
    by: Annotated[By, typer.Option("--by", help="How they are combined.")] = "mean",
    output: frame.Output = None,
    penalty: Annotated[
        float | None,
        typer.Option("--penalty", min=0, metavar="X", help="λ of mean_minus_std, by default 1."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="PATH", help="Answers that members' scales are measured on."),
    ] = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    beta: Annotated[
        float | None, typer.Option("--beta", metavar="X", help="β of implicit rewards, by default 0.1.")
    ] = None,
    reduction: Annotated[
        Literal["sum", "mean"] | None,
        typer.Option("--reduction", help="Over an answer's tokens, of implicit rewards, by default sum."),
    ] = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Make one model of several: an ensemble, a mean of weights.

    The folder written is a MODEL for every command that scores. --by mean, min and mean_minus_std make an
    ensemble of rewards, each member's brought to mean 0 and standard deviation 1 first: over the validation
    answers of its run, or over the answers of --data. It names its members, which must stay where they are.

    --by weights averages the weights of models trained from one base (WARM) into an ordinary model. --by
    implicit takes a policy that DPO trained and its reference, or an adapter alone, and gives
    beta (log policy - log reference) of an answer.
    """
    if output is None:
        raise SettingsError("say where the model goes: --output FOLDER")
    given = {
        "--penalty": (penalty is not None, ("mean_minus_std",)),
        "--data": (bool(data), ("mean", "min", "mean_minus_std")),
        "--beta": (beta is not None, ("implicit",)),
        "--reduction": (reduction is not None, ("implicit",)),
    }
    for option, (is_given, ways) in given.items():
        if is_given and by not in ways:
            raise SettingsError(f"{option} goes with --by {' or '.join(ways)}, not with {by}")
    if not data and (format or columns):
        raise SettingsError("--format and --column say how --data is read, and no --data is given")
    if by == "implicit":
        return _implicit(models, output, {"beta": beta, "reduction": reduction}, trust_remote_code)
    if len(models) < 2:
        raise SettingsError(f"combine --by {by} takes two models or more, got only {models[0]}")
    folders = [find_model(model) for model in models]
    for folder in folders:
        if [other.resolve() for other in folders].count(folder.resolve()) > 1:
            raise SettingsError(f"{folder} is given twice")
    if by == "weights":
        return _weights(folders, output, trust_remote_code)
    read = DataSettings(format=format, columns=frame.columns_from(columns))
    return _ensemble(folders, output, by, 1.0 if penalty is None else penalty, data, read, trust_remote_code)


def _ensemble(
    folders: list[Path],
    output: Path,
    by: Any,
    penalty: float,
    data: list[str] | None,
    read: DataSettings,
    trust: bool,
) -> frame.Result:
    from holdtrue.reward import members
    from holdtrue.reward.ensemble import Ensemble
    from holdtrue.reward.folders import compares, plain_text

    require_empty(output)
    taken = {plain_text(folder): folder for folder in folders}
    if len(taken) > 1:
        raise ModelError(f"plain text is raw text to {taken['raw']} and a chat to {taken['chat']}")
    judged = {compares(folder): folder for folder in folders}
    if len(judged) > 1:
        raise ModelError(
            f"no ensemble: {judged[True]} compares answers, {judged[False]} scores each by itself"
        )
    scaled = [_scaled(folder, data, read, trust) for folder in folders]
    made = Ensemble(members=tuple(scaled), combine=by, penalty=penalty, scale="data" if data else "cards")
    members.write(made, output, members.ENSEMBLE)
    rows = [(member.path, f"{member.mean:.4g}", f"{member.std:.4g}") for member in scaled]
    from rich.console import Group

    text = Group(
        frame.table(["member", "mean reward", "std"], rows), "", f"ensemble of {len(rows)} in {output}"
    )
    return frame.Result({"output": str(output)} | made.model_dump(mode="json"), text)


def _scaled(folder: Path, data: list[str] | None, read: DataSettings, trust: bool) -> Scaled:
    """A member with the scale of its rewards.

    Raises:
        ModelError: it is not known, or its rewards are all equal.
    """
    from holdtrue.cli import scoring
    from holdtrue.data.splits import read_groups
    from holdtrue.reward.ensemble import Scaled, scale_of
    from holdtrue.reward.folders import scale_in_card
    from holdtrue.reward.members import Member

    if data:
        judge = scoring.load(folder, read, trust)
        scale = scale_of(judge.scorer.score(read_groups(data, judge.data, None)[0]), str(folder))
    elif (found := scale_in_card(folder)) is not None:
        scale = found
    else:
        raise ModelError(f"{folder} does not say how its rewards spread; measure them with --data ANSWERS")
    return Scaled(**Member.of(folder).model_dump(), mean=scale["mean"], std=scale["std"])


def _weights(folders: list[Path], output: Path, trust: bool) -> frame.Result:
    from holdtrue.reward import store
    from holdtrue.reward.weight_average import average

    require_empty(output)
    made = average(folders, trust_remote_code=trust)
    with disk_errors(output):
        store.publish(made.loaded, output, made.card)
    text = f"mean of {len(folders)} models' weights in {output}\n"
    text += f"smallest cosine of two heads: {made.least_cosine:.3f}"
    if made.least_cosine < _ALIKE:
        text += (
            "\nheads that point apart shrink when averaged: "
            "train the members on from one reward model, or make an ensemble of their rewards"
        )
    value = {"output": str(output), "head_cosine": made.least_cosine, "head_norms": list(made.norms)}
    return frame.Result(value | {"averaged": made.card.averaged}, text)


def _implicit(models: list[str], output: Path, options: dict[str, Any], trust: bool) -> frame.Result:
    from pydantic import ValidationError

    from holdtrue.kinds import explain
    from holdtrue.reward import members
    from holdtrue.reward.implicit import Implicit, open_policies

    if len(models) > 2:
        raise SettingsError("combine --by implicit takes a policy and its reference, or an adapter alone")
    require_empty(output)
    named = [members.Member.of(model) for model in models]
    if len({member.sha256 for member in named}) < len(named):
        raise SettingsError(f"{models[0]} and {models[1]} have the same weights: every reward would be 0")
    values = {key: value for key, value in options.items() if value is not None}
    try:
        made = Implicit(policy=named[0], reference=named[1] if len(named) > 1 else None, **values)
    except ValidationError as error:
        raise SettingsError(explain(error, "")) from error
    open_policies(made, output, trust_remote_code=trust)  # refuses what cannot be scored with
    members.write(made, output, members.IMPLICIT)
    reference = named[1].path if len(named) > 1 else "its base"
    text = f"implicit reward of {named[0].path} against {reference} in {output}"
    return frame.Result({"output": str(output)} | made.model_dump(mode="json"), text)
