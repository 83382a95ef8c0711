"""One seed of the gold world: its trunk, which all arms share, and its arms.

world/                   first policy, noisy pairs, prompts
trunk/                   rounds of one round without a refresh: first proxy, first policy optimisation
best_of_n.json           gold of the best of n answers of the first policy
<arm>/                   the rounds of an arm, begun as a copy of the trunk
<arm>/result.json        its curve and what it told of itself; an arm that has one is finished
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any

from holdtrue.errors import DataError, ModelError, QualityError, SettingsError
from holdtrue.experiments.goldworld.settings import GoldworldSettings
from holdtrue.records import flatten
from holdtrue.rundir import RunDir, begun, disk_errors, read_json, read_jsonl, write_json, write_jsonl

Row = dict[str, Any]
_PROMPTS = 600
_BEST_PROMPTS, _BEST_OF = 64, 64
_FIRST = ("rl", "answers.jsonl", "judged.jsonl", "judged-labels.jsonl")
"""What an arm takes over of the trunk's only round."""


def rounds(settings: GoldworldSettings, world: Path, seed: int, arm: str | None) -> Row:
    """Settings of the rounds of an arm (None: the trunk), as plain values.

    Five rounds of six steps of RLOO at a rate with which the policy passes the primary KL in the middle of
    them. The proxy is trained for one epoch from the first policy's weights.
    """
    pairs = str(world / "pairs.jsonl")
    policy = str(world / "policy")
    made: Row = {
        "reward": {
            "model": {"path": policy},
            "data": {"train": [pairs], "eval_fraction": 0},
            "training": {
                "num_train_epochs": 1,
                "train_batch_size": 64,
                "learning_rate": 2e-3,
                "save_steps": 1000,
            },
            "seed": seed,
        },
        "rl": {
            "policy": {"path": policy},
            "data": {"prompts": [str(world / "prompts.jsonl")]},
            "algorithm": {"kind": "rloo", "kl_coef": 0.02},
            "decoding": {"max_new_tokens": 48, "loop": None},
            "guard": {"on_hit": "none"},
            "training": {
                "max_steps": 6,
                "prompts_per_step": 16,
                "group": 8,
                "learning_rate": 1e-3,
                "rows_per_pass": 128,
                "save_steps": 1000,
            },
        },
        "rounds": 5,
        "answers": {"prompts": 96, "group": 4},
        "labels": {"budget": settings.labels, "accuracy": 200},
        "seed": seed,
    }
    made = merged(made, settings.rounds)
    if arm is None:
        return made | {"refresh": {"kind": "none"}, "rounds": 1}
    return made | {"refresh": settings.made_of(arm)}


def run_seed(
    settings: GoldworldSettings,
    folder: Path,
    seed: int,
    *,
    tell: Callable[[Row], None] = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """All arms of a seed that are not finished yet.

    Raises:
        Interrupted: ``stop`` asked for it; call again.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    todo = [arm for arm in settings.arms if not _settled(settings, folder / arm, arm)]
    wanted = not settings.habit and not (folder / "best_of_n.json").is_file()
    if not todo and not wanted:
        return
    with RunDir(folder).claim():
        world, trunk = folder / "world", folder / "trunk"
        if not (world / "done").is_file():
            tell({"seed": seed, "arm": None, "part": "world"})
            write_world(settings, world, seed, stop)
        if not settings.habit and RunDir(trunk).info().get("status") != "finished":
            tell({"seed": seed, "arm": None, "part": "first round"})
            _carry(settings, world, trunk, seed, None, stop)
        if wanted:
            write_json(folder / "best_of_n.json", _best_of_n(settings, world, trunk, seed))
        for arm in todo:
            tell({"seed": seed, "arm": arm, "part": "begun"})
            result = {"arm": arm, "seed": seed, "made_of": settings.made_of(arm)}
            try:
                result |= _outcome_of(settings, folder, seed, arm, stop)
            except (DataError, ModelError, QualityError) as error:
                result["failed"] = str(error)
            write_json(folder / arm / "result.json", result)
            _settled(settings, folder / arm, arm)
            tell({"seed": seed, "arm": arm, "part": result.get("failed", "finished")})


def _outcome_of(
    settings: GoldworldSettings, folder: Path, seed: int, arm: str, stop: Callable[[], bool]
) -> Row:
    """Carry an arm to its end: what came out of it."""
    if settings.habit:
        from holdtrue.experiments.goldworld.habit import run_habit

        return run_habit(settings, folder, seed, arm, stop)
    return outcome(folder / arm, _carry(settings, folder / "world", folder / arm, seed, arm, stop))


def _settled(settings: GoldworldSettings, folder: Path, arm: str) -> bool:
    """Whether an arm is finished; what it needs no more is deleted then, as many seeds would fill the disk.

    Raises:
        SettingsError: it was something else when it ran.
    """
    file = folder / "result.json"
    if not file.is_file():
        return False
    before = read_json(file)["made_of"]
    if before != settings.made_of(arm):
        raise SettingsError(f"{folder} ran {before}, and arm {arm} is now {settings.made_of(arm)}; rename it")
    for part in [*folder.glob("round-*/rl"), *folder.glob("round-*/refresh"), folder / "reward"]:
        shutil.rmtree(part, ignore_errors=True)
    return True


def write_world(
    settings: GoldworldSettings, world: Path, seed: int, stop: Callable[[], bool] = lambda: False
) -> None:
    """The first policy, its noisy pairs and the prompts, for a seed.

    Raises:
        Interrupted: ``stop`` asked for it; call again.
    """
    from holdtrue.reward.classifiers import quiet_loading
    from holdtrue.worlds.support import SupportWorld

    all_families = SupportWorld().families
    about = SupportWorld(tuple(settings.pair_families) or all_families)
    asked = SupportWorld(tuple(settings.prompt_families) or all_families)
    shutil.rmtree(world, ignore_errors=True)
    world.mkdir(parents=True)
    drawn = about.preferences(settings.pairs, Random(f"{seed}/train"), settings.flip)
    write_jsonl(world / "pairs.jsonl", (pair.row() for pair in drawn))
    prompts = asked.sample_prompts(_PROMPTS, Random(f"{seed}/prompts"))
    write_jsonl(
        world / "prompts.jsonl", ({"prompt": [{"role": "user", "content": text}]} for text in prompts)
    )
    model, tokenizer = SupportWorld().train_policy(seed, settings.policy_steps, stop)
    with quiet_loading():
        model.save_pretrained(world / "policy")
        tokenizer.save_pretrained(world / "policy")
    gaps = [pair.true_chosen - pair.true_rejected for pair in drawn]
    write_json(world / "done", {"gaps": [abs(gap) for gap in gaps]})


def outcome(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Row:
    """What came out of an arm: gold in standard deviations of the first policy's, from its mean.

    Returns:
        ``curve``: for each step its ``kl`` (nats, from the log-ratios of its answers), ``gold`` and ``proxy``
        (whitened by the proxy in use). ``rounds``: gold of the fresh answers, spread, noise-free accuracy.
    """
    from holdtrue.worlds.support import true_reward

    def gold(row: Mapping[str, Any]) -> float:
        prompt, answer = row["prompt"], row["answer"]
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return true_reward(asked, answer if isinstance(answer, str) else answer[-1]["content"])

    first = [gold(row) for row in read_jsonl(folder / "reference.jsonl")]
    mean, scale = fmean(first), pstdev(first)
    curve: list[Row] = []
    told = []
    for row in rows:
        part = folder / f"round-{row['round']}"
        by_step = defaultdict(list)
        for one in read_jsonl(part / "rl" / "rollouts.jsonl"):
            by_step[one["step"]].append((gold(one) - mean) / scale)
        for step in RunDir(part / "rl").metrics():
            if step["event"] == "train":
                found = {"kl": step["kl"], "proxy": step["reward_whitened"], "length": step["length"]}
                curve.append({"round": row["round"], "gold": fmean(by_step[step["step"]]), **found})
        fresh = [(gold(one) - mean) / scale for one in read_jsonl(part / "answers.jsonl")]
        kept = ("round", "before", "after", "reward", "health", "seconds")
        refresh = {name: row["refresh"][name] for name in ("labels", "numbers", "seconds")}
        told.append({"gold": fmean(fresh), "refresh": refresh, **{name: row[name] for name in kept}})
    return {"reference": {"mean": mean, "std": scale}, "curve": curve, "rounds": told}


def _best_of_n(settings: GoldworldSettings, world: Path, trunk: Path, seed: int) -> list[Row]:
    """Gold of the first policy's best of n by the first proxy, and by gold itself."""
    import numpy as np

    from holdtrue.evaluation import best_of_n
    from holdtrue.refresh.answers import together
    from holdtrue.refresh.context import rewards
    from holdtrue.reward.folders import open_scorer
    from holdtrue.rounds.drawing import Desk
    from holdtrue.rounds.settings import build
    from holdtrue.worlds.support import true_reward

    desk = Desk(build(rounds(settings, world, seed, None)).rl)
    drawn = desk.draw(None, desk.prompts.take(range(_BEST_PROMPTS)), _BEST_OF, seed, "reference")
    groups = together(drawn, "chat")
    gold = [np.array([true_reward(flatten(g.prompt), a.text) for a in g.answers]) for g in groups]
    every = np.concatenate(gold)
    scores = [(own - every.mean()) / every.std() for own in gold]
    proxy = rewards(open_scorer(trunk / "reward" / "model").scorer, groups)
    curves = {
        name: np.mean(
            [best_of_n.curve(by, own, _BEST_OF) for by, own in zip(chosen, scores, strict=True)], axis=0
        )
        for name, chosen in (("gold", proxy), ("oracle", scores))
    }
    return [
        {"n": n, "kl": best_of_n.kl(n), **{name: float(curve[n - 1]) for name, curve in curves.items()}}
        for n in (2**i for i in range(_BEST_OF.bit_length()))
    ]


def _carry(
    settings: GoldworldSettings,
    world: Path,
    folder: Path,
    seed: int,
    arm: str | None,
    stop: Callable[[], bool],
) -> list[Row]:
    from holdtrue.refresh.labels import by_reward
    from holdtrue.rounds import run as engine
    from holdtrue.rounds.settings import build
    from holdtrue.worlds.support import noise_scale, true_reward

    made = build(rounds(settings, world, seed, arm))
    run = begun(folder, lambda: engine.start(made, folder, labelled=True))
    if arm is not None:
        _take_over(folder.with_name("trunk"), folder)
    scale = noise_scale(read_json(world / "done")["gaps"], settings.flip)
    return engine.carry(
        run, labeller=by_reward(true_reward, scale, seed), judge=by_reward(true_reward), stop=stop
    )


def _take_over(trunk: Path, folder: Path) -> None:
    """Put the trunk's first proxy and round into an arm, unless they are there."""
    (folder / "round-1").mkdir(exist_ok=True)
    for name in ("reward", "reference.jsonl", *(f"round-1/{part}" for part in _FIRST)):
        source, target = trunk / name, folder / name
        if source.exists() and not target.exists():
            temporary = target.with_name(f".{target.name}.copy")
            shutil.rmtree(temporary, ignore_errors=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, temporary)
            temporary.rename(target)


def merged(base: Row, changes: Mapping[str, Any]) -> Row:
    """Plain settings with some changed, section by section."""
    made = deepcopy(base)
    for key, value in changes.items():
        old = made.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        made[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return made
