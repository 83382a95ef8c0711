"""Policies by the rewards of their answers: mean reward, who beats whom, and whether a leaderboard agrees.

    win rate of a over b = mean over the prompts both answered of
                           P(reward of a's answer > that of b's) + P(equal) / 2

where the probability is over all answers of a and all of b to that prompt. Rewards of different prompts
are not comparable, so nothing else compares them; mean rewards are over the prompts that every policy
answered. A leaderboard's order is compared by Spearman's and Kendall's rank correlation (τ-b, which
allows for ties), with intervals by bootstrap over policies, and beside what ordering the policies by
the length of their answers would reach. Source of τ-b: M. G. Kendall, Biometrika 33 (1945).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.correlation import pearson
from holdtrue.errors import DataError
from holdtrue.evaluation import bootstrap
from holdtrue.evaluation.accuracy import interval
from holdtrue.evaluation.pairs import Bools, Floats, finite
from holdtrue.records import Group

_RESAMPLES = 2_000
_SEED = 0


def rank(
    groups: Sequence[Group],
    rewards: Sequence[NDArray[np.floating]],
    confidence: float,
    leaderboard: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Policies, best mean win rate first.

    Args:
        groups: prompts with answers that carry a policy: in the column ``policy`` of the row, or for a row
            of several answers in the list ``policies``.
        rewards: for each group (N answers,), NaN where an answer could not be scored.
        confidence: level of the intervals.
        leaderboard: for each policy its numbers by column, higher being better.

    Returns:
        ``policies``, best first, each with ``win_rate`` (mean over the other policies), ``reward`` and
        ``length`` (characters) over the common prompts (None without any), and ``against``: win rate
        with interval over each other policy, None where no prompt is common. ``leaderboard``: per column
        the rank correlations with the win rate and, under ``by_length``, with the length.

    Raises:
        DataError: an answer's policy is not given, or there are fewer than two policies.
    """
    names, table, lengths, prompts = _table(groups, finite(rewards))
    if len(names) < 2:
        raise DataError(f"ranking takes two policies or more, the data has {', '.join(names) or 'none'}")
    answered: Bools = np.asarray(np.isfinite(table).any(axis=2))
    common: Bools = np.asarray(answered.all(axis=0))
    means, mean_lengths = np.nanmean(table[:, common], axis=2), np.nanmean(lengths[:, common], axis=2)
    intervals = bootstrap.intervals_by_prompt(means.T, np.arange(means.shape[1]), confidence)
    against = _win_rates(table, answered, confidence)
    rates = [[w["win_rate"] for w in row if w and w["win_rate"] is not None] for row in against]
    rows: list[dict[str, Any]] = [
        {
            "policy": name,
            "win_rate": float(np.mean(rates[i])) if rates[i] else None,
            "reward": float(means[i].mean()) if common.any() else None,
            "reward_interval": intervals[i],
            "length": float(mean_lengths[i].mean()) if common.any() else None,
            "prompts": int(answered[i].sum()),
            "against": {names[j]: won for j, won in enumerate(against[i]) if won is not None},
        }
        for i, name in enumerate(names)
    ]
    rows.sort(key=lambda row: (row["win_rate"] is None, -(row["win_rate"] or 0.0), row["policy"]))
    return {
        "prompts": prompts,
        "common_prompts": int(common.sum()),
        "answers": sum(len(group.answers) for group in groups),
        "unscored": int(sum(np.isnan(row).sum() for row in finite(rewards))),
        "confidence": confidence,
        "policies": rows,
        "leaderboard": None if leaderboard is None else _agreement(rows, leaderboard, confidence),
    }


def policies_of(group: Group) -> list[str]:
    """The policy of each answer.

    Raises:
        DataError: the row does not say.
    """
    one, several = group.meta.get("policy"), group.meta.get("policies")
    if isinstance(one, str) and len(group.answers) == 1:
        return [one]
    if isinstance(several, list) and len(several) == len(group.answers):
        return [str(name) for name in several]
    raise DataError(
        f"{group.source or 'a row'} does not say whose its answers are: one answer needs a column 'policy', "
        "several need a list 'policies' as long as 'completions'"
    )


def spearman(x: Floats, y: Floats) -> float | None:
    """Rank correlation of two columns (M,); None when one does not vary."""
    return _correlations(_signs(x), _signs(y))[0]


def kendall(x: Floats, y: Floats) -> float | None:
    """τ-b of two columns (M,): (concordant - discordant) / √(pairs not tied in x · pairs not tied in y)."""
    return _correlations(_signs(x), _signs(y))[1]


def _table(groups: Sequence[Group], rewards: Sequence[Floats]) -> tuple[list[str], Floats, Floats, int]:
    """Policies by name, their rewards and lengths (policies, prompts, answers), NaN where there is none."""
    cells: dict[tuple[str, int], list[tuple[float, float]]] = {}
    prompts: dict[str, int] = {}
    for group, row in zip(groups, rewards, strict=True):
        prompt = prompts.setdefault(group.prompt_key, len(prompts))
        for name, answer, reward in zip(policies_of(group), group.answers, row.tolist(), strict=True):
            cells.setdefault((name, prompt), []).append((reward, float(len(answer.text))))
    names = sorted({name for name, _ in cells})
    place = {name: index for index, name in enumerate(names)}
    most = max((len(cell) for cell in cells.values()), default=0)
    table = np.full((2, len(names), len(prompts), most), np.nan)
    for (name, prompt), cell in cells.items():
        table[:, place[name], prompt, : len(cell)] = np.array(cell).T
    table[1][np.isnan(table[0])] = np.nan
    return names, table[0], table[1], len(prompts)


def _win_rates(table: Floats, answered: Bools, confidence: float) -> list[list[dict[str, Any] | None]]:
    """For each two policies the win rate of the first; None on the diagonal."""
    found: list[list[dict[str, Any] | None]] = [[None] * len(table) for _ in table]
    for a in range(len(table)):
        for b in range(a + 1, len(table)):
            both = answered[a] & answered[b]
            won: dict[str, Any] = {"win_rate": None, "interval": None, "prompts": int(both.sum())}
            lost = dict(won)
            if both.any():
                gaps = table[a, both][:, :, None] - table[b, both][:, None, :]
                scores = np.nanmean((1 + np.sign(gaps)) / 2, axis=(1, 2))
                low, high, _ = interval(scores, np.arange(len(scores)), confidence)
                won |= {"win_rate": float(scores.mean()), "interval": [low, high]}
                lost |= {"win_rate": float(1 - scores.mean()), "interval": [1 - high, 1 - low]}
            found[a][b], found[b][a] = won, lost
    return found


def _agreement(
    rows: Sequence[Mapping[str, Any]], leaderboard: Mapping[str, Mapping[str, float]], confidence: float
) -> dict[str, Any]:
    there = [row for row in rows if row["policy"] in leaderboard and row["win_rate"] is not None]
    columns = dict.fromkeys(column for row in there for column in leaderboard[row["policy"]])
    found = {}
    for column in columns:
        kept = [row for row in there if column in leaderboard[row["policy"]]]
        theirs = np.array([leaderboard[row["policy"]][column] for row in kept])
        ours = np.array([row["win_rate"] for row in kept])
        found[column] = {"policies": len(kept)} | _correlate(ours, theirs, confidence)
        if all(row["length"] is not None for row in kept):
            lengths = np.array([row["length"] for row in kept])
            found[column]["by_length"] = _correlate(lengths, theirs, confidence)
    return {
        "columns": found,
        "not_on_it": sorted(row["policy"] for row in rows if row["policy"] not in leaderboard),
        "not_in_data": sorted(set(leaderboard) - {row["policy"] for row in rows}),
    }


def _correlate(x: Floats, y: Floats, confidence: float) -> dict[str, Any]:
    """Both correlations; intervals by drawing policies with replacement, None with fewer than 10."""
    sx, sy = _signs(x), _signs(y)
    first, second = _correlations(sx, sy)
    result: dict[str, Any] = {"spearman": first, "spearman_interval": None}
    result |= {"kendall": second, "kendall_interval": None}
    if len(x) < bootstrap.FEWEST_PROMPTS or first is None:
        return result
    rng = np.random.default_rng(_SEED)
    drawn = (rng.integers(0, len(x), size=len(x)) for _ in range(_RESAMPLES))
    pairs = [_correlations(sx[np.ix_(rows, rows)], sy[np.ix_(rows, rows)]) for rows in drawn]
    values = np.array([pair for pair in pairs if None not in pair], dtype=np.float64)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).tolist()
    return result | {"spearman_interval": [low[0], high[0]], "kendall_interval": [low[1], high[1]]}


def _signs(x: Floats) -> Floats:
    """(M, M) sign of x_i - x_j: all that rank correlations know of a column."""
    return np.sign(x[:, None] - x[None, :])


def _correlations(sx: Floats, sy: Floats) -> tuple[float | None, float | None]:
    # A value's rank is, but for a constant, half the sum of its signs; ties get the mean of their ranks.
    rank_correlation = pearson(sx.sum(axis=1), sy.sum(axis=1))
    untied = float(np.abs(sx).sum() * np.abs(sy).sum())
    return rank_correlation, float((sx * sy).sum()) / untied**0.5 if untied else None
