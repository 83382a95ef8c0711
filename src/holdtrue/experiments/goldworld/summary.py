"""What the finished arms of all seeds say: means, and differences to the control seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from holdtrue.experiments.goldworld import curves
from holdtrue.experiments.goldworld.settings import GoldworldSettings
from holdtrue.intervals import student
from holdtrue.rundir import read_json

Row = dict[str, Any]
GRID = [0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 10, 12]
"""KLs of the mean way in the picture."""


def summarise(settings: GoldworldSettings, folder: Path) -> Row:
    """Everything the page and ``--json`` say; arms and seeds that are not finished are left out and counted.

    Returns:
        ``arms``: for each its ``seeds``, ``gold_at_kl_K``, ``area``, ``best_gold``, ``final_gold``,
        ``final_kl``, ``on_policy_accuracy`` (of the models in use), ``refreshed_accuracy``, ``labels`` (that
        reached a policy), ``rounds`` (shift by round), ``fit`` and ``way``; a measured number is ``{mean,
        interval, seeds}``. ``differences``: the same less the control's, paired by seed. ``primary``: the
        primary outcome of each arm less the control's. ``best_of_n``: gold by KL for the best of n answers
        of the first policy. ``missing``: arms x seeds without a result. ``failed``: why, by arm and seed.
    """
    read = _read(settings, folder)
    results = {arm: {k: one for k, one in own.items() if "failed" not in one} for arm, own in read.items()}
    numbers = {
        arm: {seed: _numbers(settings, one) for seed, one in own.items()} for arm, own in results.items()
    }
    control = numbers.get(settings.control, {})
    arms = {
        arm: {
            "made_of": settings.made_of(arm),
            "seeds": sorted(own),
            **_means(list(own.values())),
        }
        | _pictures(list(results[arm].values()))
        for arm, own in numbers.items()
        if own
    }
    differences = {
        arm: _means([_less(own[seed], control[seed]) for seed in own if seed in control])
        for arm, own in numbers.items()
        if arm != settings.control and own.keys() & control.keys()
    }
    primary = settings.primary
    return {
        "folder": str(folder),
        "control": settings.control,
        "habit": settings.habit,
        "primary_kl": settings.primary_kl,
        "seeds": settings.seeds,
        "arms": arms,
        "differences": differences,
        "primary": {arm: own[primary] for arm, own in differences.items() if primary in own},
        "best_of_n": _best_of_n(settings, folder),
        "missing": len(settings.arms) * settings.seeds - sum(len(own) for own in read.values()),
        "failed": _failed(read),
    }


def _read(settings: GoldworldSettings, folder: Path) -> dict[str, dict[int, Row]]:
    found: dict[str, dict[int, Row]] = {arm: {} for arm in settings.arms}
    for arm, own in found.items():
        for seed in range(settings.seeds):
            file = folder / f"seed-{seed:02d}" / arm / "result.json"
            if file.is_file():
                own[seed] = read_json(file)
    return found


def _failed(results: Mapping[str, dict[int, Row]]) -> dict[str, dict[str, str]]:
    """Reasons by arm and seed."""
    reasons = {
        arm: {str(seed): one["failed"] for seed, one in own.items() if "failed" in one}
        for arm, own in results.items()
    }
    return {arm: own for arm, own in reasons.items() if own}


def _numbers(settings: GoldworldSettings, result: Row) -> dict[str, float | None]:
    """What is compared of one arm of one seed."""
    if "numbers" in result:
        numbers: dict[str, float | None] = result["numbers"]
        return numbers
    kls, gold = curves.way(result["curve"])
    rounds = result["rounds"]
    in_use, refreshed = ([one[when]["accuracy"] for one in rounds] for when in ("before", "after"))
    found: dict[str, float | None] = {f"gold_at_kl_{k:g}": curves.at(kls, gold, k) for k in settings.kls}
    return found | {
        "area": curves.area(kls, gold, settings.primary_kl),
        "best_gold": float(gold.max()),
        "final_gold": rounds[-1]["gold"],
        "final_kl": rounds[-1]["before"]["kl"],
        "on_policy_accuracy": fmean(in_use) if None not in in_use else None,
        "refreshed_accuracy": fmean(refreshed) if None not in refreshed else None,
        "degenerate": rounds[-1]["health"]["rate"],
        "labels": float(sum(one["refresh"]["labels"] for one in rounds[:-1])),
        "seconds": sum(one["seconds"] for one in rounds),
    }


def _less(own: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, float | None]:
    both = {name: (value, other[name]) for name, value in own.items()}
    return {name: None if a is None or b is None else a - b for name, (a, b) in both.items()}


def _means(rows: Sequence[Mapping[str, float | None]]) -> Row:
    """Of each number its mean over the seeds that have it, with Student's 95 % interval."""
    return {
        name: _mean([value for row in rows if (value := row[name]) is not None])
        for name in (rows[0] if rows else ())
    }


def _mean(values: Sequence[float]) -> Row:
    interval = [*student(values)] if len(values) > 1 else None
    return {"mean": fmean(values) if values else None, "interval": interval, "seeds": len(values)}


def _pictures(results: Sequence[Row]) -> Row:
    """Mean way, shift by round, and the fit over the steps of all seeds."""
    if not results[0]["rounds"]:
        return {"way": [], "rounds": [], "fit": None, "transcripts": results[0].get("transcripts", [])}
    ways = [curves.way(one["curve"]) for one in results]
    proxies = [curves.way(one["curve"], "proxy") for one in results]
    points = []
    for k in GRID:
        own = [value for way in ways if (value := curves.at(*way, k)) is not None]
        theirs = [value for way in proxies if (value := curves.at(*way, k)) is not None]
        if 2 * len(own) >= len(results):
            points.append({"kl": k, "gold": _mean(own), "proxy": _mean(theirs)})
    shift = ("relative_spread", "difference", "accuracy", "kl", "mahalanobis")
    by_round = [
        {
            "round": rows[0]["round"],
            "gold": _mean([row["gold"] for row in rows]),
            **{name: _mean([x for row in rows if (x := row["before"][name]) is not None]) for name in shift},
            "accuracy_after": _mean([x for row in rows if (x := row["after"]["accuracy"]) is not None]),
        }
        for rows in zip(*(one["rounds"] for one in results), strict=False)
    ]
    kls, gold = (np.concatenate([way[i] for way in ways]) for i in (0, 1))
    return {"way": points, "rounds": by_round, "fit": curves.fit(kls, gold, "optimisation")}


def _best_of_n(settings: GoldworldSettings, folder: Path) -> Row | None:
    files = [folder / f"seed-{seed:02d}" / "best_of_n.json" for seed in range(settings.seeds)]
    found = [read_json(file) for file in files if file.is_file()]
    if not found:
        return None
    points = [
        {
            "n": rows[0]["n"],
            "kl": rows[0]["kl"],
            **{name: _mean([row[name] for row in rows]) for name in ("gold", "oracle")},
        }
        for rows in zip(*found, strict=True)
    ]
    kls = np.array([row["kl"] for rows in found for row in rows])
    gold = np.array([row["gold"] for rows in found for row in rows])
    return {"seeds": len(found), "points": points, "fit": curves.fit(kls, gold, "best_of_n")}
