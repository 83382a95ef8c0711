"""``holdtrue rank``: policies by the rewards that a model gives their answers."""

from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError


def command(
    model: frame.RunOrModel,
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="Completions with a column policy (or a list policies)."),
    ],
    leaderboard: Annotated[
        str | None,
        typer.Option(
            "--leaderboard", metavar="PATH", help="JSONL with a column policy and columns of numbers."
        ),
    ] = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    overrides: frame.Overrides = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Rank policies by the rewards of their answers to the same prompts.

    Win rates of each policy over each other with intervals, mean rewards over the prompts that all answered,
    and with --leaderboard the rank correlation with each of its columns, beside that of the mean length.
    """
    from holdtrue.cli import scoring
    from holdtrue.data.splits import read_groups
    from holdtrue.evaluation.policies import policies_of, rank

    settings = frame.settings_from([], format=format, columns=columns, overrides=overrides)
    board = None if leaderboard is None else _read(leaderboard)
    judge = scoring.load(model, settings.data, trust_remote_code)
    groups, report = read_groups(data, judge.data, None)
    for group in groups:
        policies_of(group)  # before anything is scored
    found = rank(groups, judge.scorer.score(groups), settings.evaluation.confidence, board)
    value = {"data": data, "rejected": dict(report.rejected)} | found
    return frame.Result(value, _text(value))


def _read(path: str) -> dict[str, dict[str, float]]:
    """Numbers of each policy by column.

    Raises:
        DataError: not a leaderboard.
    """
    from holdtrue.data import files

    if not Path(path).is_file():
        raise DataError(f"leaderboard {path} does not exist")
    board: dict[str, dict[str, float]] = {}
    for raw in files.rows(path, sha256()):
        row = raw.value
        if row is None or not isinstance(name := row.get("policy"), str):
            raise DataError(f"{path}, line {raw.line}: a leaderboard needs a name in the column 'policy'")
        if name in board:
            raise DataError(f"{path}, line {raw.line}: {name} is there twice")
        board[name] = {
            key: float(value)
            for key, value in row.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        }
    if not any(board.values()):
        raise DataError(f"{path} has no column of numbers beside 'policy'")
    return board


def _text(value: dict[str, Any]) -> Any:
    from rich.console import Group as Stacked

    policies = value["policies"]
    head = (
        f"{value['answers']:,} answers of {len(policies)} policies to {value['prompts']:,} prompts, "
        f"{value['common_prompts']:,} answered by all"
    )
    lost = sum(value["rejected"].values())
    head += "".join(
        f"; {count:,} {what}"
        for count, what in ((value["unscored"], "without a reward"), (lost, "rows could not be read"))
        if count
    )
    rows = []
    for row, below in zip(policies, [*policies[1:], None], strict=True):
        won = row["against"][below["policy"]] if below else None
        rows.append(
            (
                row["policy"],
                _percent(row["win_rate"]),
                _percent(won["win_rate"]) + _bounds(won["interval"]) if won else "",
                _short(row["reward"]),
                "" if row["length"] is None else f"{row['length']:.0f}",
                row["prompts"],
            )
        )
    headers = ["policy", "mean win rate", "against the next", "reward", "characters", "prompts"]
    parts: list[Any] = [head + "\n", frame.table(headers, rows)]
    if value["leaderboard"]:
        parts += ["", *_agreement(value["leaderboard"])]
    return Stacked(*parts)


def _agreement(board: dict[str, Any]) -> list[Any]:
    rows = []
    for column, found in board["columns"].items():
        for by, row in (("win rate", found), ("length", found.get("by_length"))):
            if row is not None:
                spearman = _short(row["spearman"]) + _range(row["spearman_interval"])
                kendall = _short(row["kendall"]) + _range(row["kendall_interval"])
                rows.append((column, by, found["policies"], spearman, kendall))
    parts: list[Any] = [frame.table(["leaderboard", "ordered by", "policies", "Spearman", "Kendall"], rows)]
    for key, words in (("not_on_it", "not on the leaderboard"), ("not_in_data", "not in the data")):
        if board[key]:
            parts.append(f"{words}: {', '.join(board[key])}")
    return parts


def _percent(rate: float | None) -> str:
    return "no common prompt" if rate is None else f"{rate:.1%}"


def _bounds(interval: list[float] | None) -> str:
    return "" if interval is None else " ({:.1%} – {:.1%})".format(*interval)


def _short(number: float | None) -> str:
    return "undefined" if number is None else f"{number:.3g}"


def _range(interval: list[float] | None) -> str:
    return "" if interval is None else " ({:.2f} – {:.2f})".format(*interval)
