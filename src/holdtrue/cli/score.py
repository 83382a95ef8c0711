"""``holdtrue score``: every row of a data set with the rewards of its answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError, SettingsError
from holdtrue.rundir import disk_errors

if TYPE_CHECKING:
    from holdtrue.records import Group
    from holdtrue.reward.scorer import Scored, StreamingScorer

_OWN = ("rewards", "reward_std", "aspects", "steps", "reward_model", "reward_reason")


def command(
    model: frame.RunOrModel,
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Pairs, completions or single answers.")
    ],
    output: frame.Output = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    ranking: Annotated[
        Literal["gap", "win_rate", "knockout"] | None,
        typer.Option(
            "--ranking",
            help="Models that compare: rewards are mean gaps (default), mean win rates, or rounds survived, "
            "which is fastest and enough for best-of-n.",
        ),
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Faster, about three digits.")] = False,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Give each answer of a data set its reward.

    Each output line is the input row plus "rewards" (chosen and rejected, one per completion, or one)
    as raw numbers, and "reward_model", the hash of the weights; an ensemble adds "reward_std", how far its
    members disagree, a model with several aspects "aspects", a list like "rewards" for each, a process reward
    model "steps", its number at the end of each step. A row that does not fit gets "rewards": null and
    "reward_reason". Rows keep their order; an interrupted command goes on where it stopped when it is given
    again. Unreadable rows are listed in FILE.rejected.jsonl.
    """
    from holdtrue.cli import scoring
    from holdtrue.data.files import resources
    from holdtrue.data.reader import Reader
    from holdtrue.settings import DataSettings

    if output is None:
        raise SettingsError("say where the rows go: --output FILE")
    if output.is_dir() or not output.name:
        raise SettingsError(f"{output} is a directory; name the file the rows go to: --output FILE")
    if not output.parent.is_dir():
        raise DataError(f"cannot write {output}: there is no folder {output.parent}")
    judge = scoring.load(model, DataSettings(), trust_remote_code, bf16)
    _rank_by(judge.scorer, ranking)
    identity = judge.identity + (f" {ranking}" if ranking else "")
    resources(data)
    rejected = output.with_name(output.name + ".rejected.jsonl")
    unscored = Counter[str]()
    with disk_errors(output):
        rejected.unlink(missing_ok=True)
        reader = Reader(
            data,
            format=format,
            columns=frame.columns_from(columns),
            plain_text=judge.data.plain_text,
            rejected=rejected,
        )
        done, groups = _resumed(output, iter(reader), identity, unscored)
        count = done
        with open(output, "a", encoding="utf-8") as file:
            for group, scored in _scored(judge.scorer, groups):
                row = scored_row(group, scored, identity)
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
                unscored.update(_reasons(row))
    reader.report.require_rows()
    value = {
        "output": str(output),
        "rows": count,
        "resumed_after": done,
        "rejected": dict(reader.report.rejected),
        "unscored": dict(unscored),
        "reward_model": identity,
    }
    lost = {**reader.report.rejected, **unscored}
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in lost.items()) or "nothing"
    resumed = f" ({done:,} were there already)" if done else ""
    return frame.Result(value, f"{count:,} rows in {output}{resumed}; without a reward: {left_out}")


def scored_row(group: Group, scored: Scored, identity: str) -> dict[str, Any]:
    """The input row with its rewards; a pair needs both sides, completions are null one by one."""
    values = _numbers(scored.rewards)
    rated = any(answer.ratings for answer in group.answers)
    whole = bool(group.comparisons) and len(values) == 2 and not rated and None in values
    rewards = None if whole or not any(v is not None for v in values) else values
    reasons = sorted({reason for reason in scored.reasons if reason})
    extra: dict[str, Any] = {"rewards": rewards}
    if scored.std is not None:
        spread = [float(s) if r is not None else None for s, r in zip(scored.std, values, strict=True)]
        extra["reward_std"] = None if rewards is None else spread
    if scored.aspects is not None and rewards is not None:
        extra["aspects"] = {name: _numbers(column) for name, column in scored.aspects.items()}
    if scored.steps is not None and rewards is not None:
        extra["steps"] = [[value for _, value in values] for values in scored.steps]
    extra["reward_model"] = identity
    if reasons:
        extra["reward_reason"] = "; ".join(reasons)
    return {**(group.row or {}), **extra}


def _numbers(values: Any) -> list[float | None]:
    return [float(value) if value == value else None for value in values]


def _rank_by(scorer: StreamingScorer, ranking: Literal["gap", "win_rate", "knockout"] | None) -> None:
    from holdtrue.reward.kinds import ComparingKind
    from holdtrue.reward.scorer import RewardScorer

    if ranking is None:
        return
    kind = scorer.loaded.model.kind if isinstance(scorer, RewardScorer) else None
    if not isinstance(scorer, RewardScorer) or not isinstance(kind, ComparingKind):
        this = "this model" if kind is None else kind.name()
        raise SettingsError(f"--ranking is for models that compare answers; {this} scores each by itself")
    scorer.ranking = ranking


def _scored(scorer: Any, groups: Iterator[Group]) -> Iterator[tuple[Group, Scored]]:
    while chunk := list(islice(groups, scorer.chunk)):
        yield from zip(chunk, scorer.stream(chunk), strict=True)


def _resumed(
    output: Path, groups: Iterator[Group], identity: str, unscored: Counter[str]
) -> tuple[int, Iterator[Group]]:
    """Rows already written, and the groups still to be scored; a last line cut short is taken off.

    Raises:
        DataError: the file holds something else than the first rows of this data, scored by this model.
    """
    if not output.is_file():  # also a pipe or a device
        return 0, groups
    done = end = 0
    with open(output, "r+b") as file:
        for line in file:
            group = next(groups, None)
            row = {} if group is None else group.row or {}
            if not line.endswith(b"\n") and group is not None and _begins(line, row):
                groups = chain([group], groups)
                break
            try:
                written = json.loads(line)
                owner, same = written["reward_model"], _without_rewards(written) == _without_rewards(row)
            except (ValueError, TypeError, KeyError, AttributeError):
                owner, same = None, False
            if owner != identity:
                raise DataError(f"{output} exists and was not written by this model; choose another --output")
            if not same:
                raise DataError(
                    f"{output}, line {done + 1} is not a row of this data; choose another --output"
                )
            unscored.update(_reasons(written))
            done += 1
            end += len(line)
        file.truncate(end)
    return done, groups


def _begins(line: bytes, row: Mapping[str, Any]) -> bool:
    """Whether a line cut short can have been that of ``row``."""
    whole = json.dumps(row, ensure_ascii=False)[:-1].encode()
    return line[: len(whole)] == whole[: len(line)]


def _without_rewards(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _OWN}


def _reasons(row: Mapping[str, Any]) -> list[str]:
    return [row["reward_reason"]] if "reward_reason" in row else []
