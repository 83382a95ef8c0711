"""``holdtrue ablate``: what each ingredient of a recipe is worth.

    FOLDER/ablation.yaml            the full recipe
    FOLDER/runs/full/seed-42/       a run directory with ``rewards.json``, the rewards of the held-out pairs
    FOLDER/runs/loss.center/...     the same with the setting put back to its default
    FOLDER/ablation.json            the comparison as one JSON value, and report.html, the page made of it

Every variant is trained with the same seeds as the full recipe and measured on the same held-out pairs, so
differences are paired: over comparisons b and seeds s,

    difference = mean over s, b of  measure(variant, s, b) - measure(full, s, b)

for accuracy (1, 0.5 or 0 a comparison that raters decided) and log loss (nats, every comparison).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from holdtrue import job
from holdtrue.errors import DataError, HoldtrueError, Interrupted, QualityError, SettingsError
from holdtrue.evaluation import paired
from holdtrue.evaluation.accuracy import score
from holdtrue.evaluation.pairs import Bools, Floats, Ints, Pairs, collect, finite
from holdtrue.experiments.runs import drop_checkpoints, open_or_start, require_comparable, workplace
from holdtrue.records import Group
from holdtrue.report.ablation import write_ablation_report
from holdtrue.rundir import RunDir, disk_errors, read_json, write_json
from holdtrue.settings import DataSettings, Settings, build, keys, parse_override, put

FULL = "full"
_FIXED = ("seed", "sweep", "data.train", "data.eval", "data.eval_fraction", "model.path")
"""Settings that every run of an ablation shares, or that it varies itself."""


@dataclass(frozen=True)
class Variant:
    """A recipe with one ingredient removed: ``key`` is ``now`` instead of ``was``."""

    name: str
    settings: Settings
    key: str | None = None
    was: Any = None
    now: Any = None

    def folder(self) -> str:
        """Its folder's name, different for every name."""
        plain = re.sub(r"[^\w.=+-]", "_", self.name)
        return plain if plain == self.name else f"{plain[:80]}-{_digest(self.name)[:8]}"


def remove(full: Settings, drop: str) -> Variant:
    """The recipe without one ingredient: ``loss.center`` back at its default, or ``key=value`` as it says.

    Raises:
        SettingsError: unknown key, a value that cannot be used, a setting that every run needs, or one that
            is already so.
    """
    key, equals, _ = drop.partition("=")
    key = key.strip()
    if any(f"{fixed}.".startswith(f"{key}.") or key.startswith(f"{fixed}.") for fixed in _FIXED):
        raise SettingsError(f"--drop {drop}: {key} stays the same in every run and cannot be dropped")
    plain = full.dump()
    *parents, last = key.split(".")
    inside = reduce(_inside, parents, plain)
    was = inside.get(last)
    if equals:
        put(plain, *parse_override(drop))
    elif last in inside:
        del inside[last]
    elif key in dict(keys()):
        raise SettingsError(f"--drop {drop}: {key} is not set, as {'.'.join(parents)} is not")
    else:
        put(plain, key, None)  # building them says that there is no such setting, and the nearest
    settings = build(plain)
    if settings.dump() == full.dump():
        already = f"is {was!r}" if equals else f"has its default, {was!r},"
        raise SettingsError(f"--drop {drop}: {key} {already} already, so nothing would change")
    return Variant(drop, settings, key, was, reduce(_inside, parents, settings.dump()).get(last))


def _inside(values: dict[str, Any], part: str) -> dict[str, Any]:
    found = values.get(part)
    return found if isinstance(found, dict) else {}


def ablate(
    settings: Settings,
    drops: Sequence[str],
    seeds: int,
    folder: Path,
    *,
    tell: job.Tell = lambda event, values: None,
    stop: Callable[[], bool] = lambda: False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Train the full recipe and every variant with ``seeds`` seeds from ``settings.seed`` on, and compare.

    ``tell`` gets ``run`` (name, seed) when one begins, ``ended`` and the events of its training. Runs that
    are finished in the folder are kept; one that fails is recorded with its reason and tried again by the
    next call.

    Returns:
        What ``ablation.json`` holds: ``full``, and ``variants`` with their differences, most harmful first.

    Raises:
        SettingsError: nothing to drop, or as :func:`remove`. DataError: no held-out pairs, or a variant
            would be measured on others.
        Interrupted: ``stop`` asked for it. QualityError: the full recipe finished with no seed.
    """
    require_comparable(settings, "ablate")
    full = settings.model_copy(update={"sweep": None})
    variants = [Variant(FULL, full), *_variants(full, drops)]
    groups = _held_out(full.data)
    for variant in variants:
        same = variant.settings.data == full.data
        if not same and _identity(_held_out(variant.settings.data)) != _identity(groups):
            raise DataError(f"--drop {variant.name} changes the held-out pairs, so it cannot be compared")
    several = [full.seed + i for i in range(seeds)]
    done: dict[tuple[str, int], list[Floats]] = {}
    failed: dict[tuple[str, int], str] = {}
    with workplace(folder, "ablation.yaml", job.anchored(full)):
        for seed, variant in product(several, variants):
            tell("run", {"name": variant.name, "seed": seed})
            path = folder / "runs" / variant.folder() / f"seed-{seed}"
            run = open_or_start(path, variant.settings.model_copy(update={"seed": seed}))
            try:
                done[variant.name, seed] = _rewards(run, groups, tell, stop, trust_remote_code)
            except Interrupted:
                raise Interrupted(f"stopped in {path}, all is saved; the same command goes on") from None
            except HoldtrueError as error:
                failed[variant.name, seed] = str(error)
            tell("ended", {"name": variant.name, "seed": seed, "reason": failed.get((variant.name, seed))})
        result = _compare(variants, several, groups, done, failed, full.evaluation.confidence)
        result |= {"folder": str(folder), "report": str(folder / "report.html")}
        with disk_errors(folder):
            write_json(folder / "ablation.json", result)
            write_ablation_report(folder / "report.html", result)
    return result


def _variants(full: Settings, drops: Sequence[str]) -> list[Variant]:
    if not drops:
        raise SettingsError("nothing to drop; name an ingredient, e.g. --drop loss.center")
    variants = [remove(full, drop) for drop in drops]
    for i, variant in enumerate(variants):
        for other in variants[:i]:
            if variant.settings.dump() == other.settings.dump():
                raise SettingsError(f"--drop {other.name} and --drop {variant.name} are the same change")
    return variants


def _rewards(
    run: RunDir, groups: Sequence[Group], tell: job.Tell, stop: Callable[[], bool], trust: bool
) -> list[Floats]:
    """Rewards of the held-out answers, NaN where there is none, after training where that is not done yet."""
    file = run.path / "rewards.json"

    def listen(event: str, values: dict[str, Any]) -> None:
        if event == "finished":
            rewards = [[x if np.isfinite(x) else None for x in row.tolist()] for row in values["rewards"]]
            write_json(file, {"held_out": _identity(values["groups"]), "rewards": rewards})
        tell(event, values)

    if stop():
        raise Interrupted
    if run.info().get("status") != "finished" or not file.exists():
        job.train(run, tell=listen, stop=stop, trust_remote_code=trust)
    drop_checkpoints(run)
    kept = read_json(file)
    if kept["held_out"] != _identity(groups):
        raise DataError(f"{run.path} was measured on other pairs than those held out now")
    return finite([np.array(row, dtype=np.float64) for row in kept["rewards"]])


def _held_out(data: DataSettings) -> list[Group]:
    from holdtrue.data.splits import read_splits

    groups = read_splits(data, None).eval
    if not any(comparison.preferred for group in groups for comparison in group.comparisons):
        raise DataError("no comparison that raters decided is held out; name some pairs with --eval")
    return groups


def _identity(groups: Sequence[Group]) -> str:
    """Equal for equal comparisons in the same order."""
    rows = [
        [
            group.prompt_key,
            [answer.text for answer in group.answers],
            [(comparison.first, comparison.second, comparison.label) for comparison in group.comparisons],
        ]
        for group in groups
    ]
    return _digest(json.dumps(rows))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _compare(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    groups: Sequence[Group],
    done: dict[tuple[str, int], list[Floats]],
    failed: dict[tuple[str, int], str],
    confidence: float,
) -> dict[str, Any]:
    nothing = [np.zeros(len(group.answers)) for group in groups]
    pairs = collect(groups, nothing, [row.astype(np.int64) for row in nothing])
    gaps = {key: _gaps(pairs, rewards) for key, rewards in done.items()}
    usable = [seed for seed in seeds if (FULL, seed) in gaps]
    if not usable:
        raise QualityError(f"the full recipe finished with no seed: {failed[FULL, seeds[0]]}")
    rows = []
    for variant in variants:
        shared = [seed for seed in usable if (variant.name, seed) in gaps]
        row: dict[str, Any] = {
            "name": variant.name,
            **({} if variant.key is None else {"key": variant.key, "was": variant.was, "now": variant.now}),
            "seeds": shared,
            "failed": {
                str(seed): failed[variant.name, seed] for seed in seeds if (variant.name, seed) in failed
            },
            "runs": str(Path("runs") / variant.folder()),
        }
        row |= {"unscored": 0, "accuracy": None, "loss": None}
        if shared:
            full = np.stack([gaps[FULL, seed] for seed in shared])
            row |= _measure(np.stack([gaps[variant.name, seed] for seed in shared]), full, pairs, confidence)
        rows.append(row)
    full_row, *others = rows
    others.sort(key=lambda row: row["accuracy"]["difference"] if row["accuracy"] else np.inf)
    return {"confidence": confidence, "seeds": list(seeds), "full": full_row, "variants": others}


def _gaps(pairs: Pairs, rewards: Sequence[Floats]) -> Floats:
    """(B,) reward of the preferred answer minus that of the other, NaN where one has none."""
    flat, sizes = np.concatenate(rewards), np.array([len(row) for row in rewards])
    start = (np.cumsum(sizes) - sizes)[pairs.group]
    gaps: Floats = flat[start + pairs.preferred] - flat[start + pairs.other]
    return gaps


def _measure(ours: Floats, full: Floats, pairs: Pairs, confidence: float) -> dict[str, Any]:
    """Accuracy and log loss of a variant, and their differences from the full recipe; gaps are (S, B)."""
    scored: Bools = np.isfinite((ours + full).sum(axis=0))
    ours, full, pairs = ours[:, scored], full[:, scored], pairs.take(scored)
    right = score(ours[:, pairs.decided]), score(full[:, pairs.decided])
    losses = _log_loss(ours, pairs.label), _log_loss(full, pairs.label)
    return {
        "unscored": int((~scored).sum()),
        "accuracy": _paired(*right, pairs.prompt[pairs.decided], confidence),
        "loss": _paired(*losses, pairs.prompt, confidence),
    }


def _log_loss(gap: Floats, label: Floats) -> Floats:
    """(S, B) -(p log σ(gap) + (1 - p) log σ(-gap)) with p = P(preferred side preferred) (B,)."""
    loss: Floats = np.logaddexp(0, -gap) + (1 - label) * gap
    return loss


def _paired(ours: Floats, full: Floats, prompt: Ints, confidence: float) -> dict[str, Any] | None:
    """One measure (S, B) of a variant against the full recipe; None where there is no comparison."""
    if not len(prompt):
        return None
    difference = ours - full
    return {
        "value": float(ours.mean()),
        "by_seed": ours.mean(axis=1).tolist(),
        "difference": float(difference.mean()),
        "interval": paired.interval(difference, prompt, confidence),
        "difference_by_seed": difference.mean(axis=1).tolist(),
        "comparisons": len(prompt),
        "prompts": len(np.unique(prompt)),
    }
