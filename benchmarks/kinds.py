"""What the kinds cost: a closed-form head, all pairs of a prompt in one step, ranking by a knockout.

    python benchmarks/kinds.py [--quick] [--only PART] [--rounds 3] [--output kinds.json]

``ridge``      aspects fitted in closed form, the choice of alpha included, against AdamW on the same cached
               states until its training error is within 2 % of the closed form's, with the rate and batch
               that were fastest in a grid, whose cost is told apart, and with holdtrue's defaults
``all_pairs``  a training step of all_pairs against bradley_terry with one pair per prompt, on equal trees
``ranking``    sequences that a model reading two answers computes to rank N, all pairs against a knockout
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from typing import Any

from measurement import Sample, Stopwatch, alternate, machine, middle, ratio, show, write

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray

from holdtrue.losses import Loss
from holdtrue.losses.all_pairs import AllPairs
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.reward import store
from holdtrue.reward.comparer import PairComparer, Ranking, judge
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.kinds.pair_ranker import PairRanker
from holdtrue.reward.model import given
from holdtrue.settings import ModelSettings, TrainingSettings
from holdtrue.tokens.tree import Lesson, Tree
from holdtrue.training import loop, ridge
from holdtrue.training.preparation import prepare
from holdtrue.training.step import plain
from workloads import SIZES, encoder, encoder_folder, hh, reward_model, rows, tldr

CLOSE = 1.02  # of the closed form's training error
RATES = (1e-2, 1e-1, 1e-3)
BATCHES = (512, 1 << 30, 64)  # the second: all rows
MOST_TIMES = 50  # AdamW may take this many times the closed form's seconds
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rated:
    """States (N, D) and ratings (N, K) of answers to ``prompts`` (N,)."""

    name: str
    states: Floats
    ratings: Floats
    prompts: list[str]


def truthfulqa(count: int | None) -> Rated:
    """Twelve real answers per prompt with two ratings, and their states in a sentence encoder."""
    names = ["truthful", "informative"]
    kind = Aspects(names=names)
    loaded = store.load(ModelSettings(path=encoder_folder(), kind=kind))
    groups = [
        Group(
            (Message("user", row["prompt"]),),
            tuple(
                Answer((Message("assistant", text),), {name: row["labels"][name][k] for name in names})
                for k, text in enumerate(row["completions"])
            ),
        )
        for row in rows("truthfulqa_aspects/train.jsonl.gz")[:count]
    ]
    trees = prepare(groups, loaded.encoder(), 16, "train", Lesson("answer", "ratings", kind.ratings)).trees
    model = loaded.model
    with torch.inference_mode():
        states = [given(model(model.batch([tree])).hidden).numpy() for tree in trees]
    return Rated(
        "truthfulqa, MiniLM",
        np.concatenate(states),
        np.concatenate([tree.ratings for tree in trees]),
        [tree.key for tree in trees for _ in tree.answers],
    )


def drawn(answers: int, width: int, aspects: int = 5) -> Rated:
    """Random states whose variances fall as 1 / rank, and ratings of which they explain half."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    states = rng.normal(size=(answers, width)) / np.sqrt(np.arange(1, width + 1)) @ turn
    known = states @ rng.normal(size=(width, aspects))
    ratings = known / known.std(0) + rng.normal(size=known.shape)
    prompts = [f"{i // 4:06d}" for i in range(answers)]
    return Rated("drawn", states.astype(np.float32), ratings.astype(np.float32), prompts)


def closed_form(data: Rated) -> Callable[[int], tuple[Sample, float]]:
    """Fit with the choice of alpha; gives the time and the mean squared error on the training rows."""

    def run(seed: int) -> tuple[Sample, float]:
        names = [str(k) for k in range(data.ratings.shape[1])]
        with Stopwatch() as watch:
            lines = ridge.fit(data.states, data.ratings, data.prompts, names, intercept=True)
        weights = np.stack([line.weights for line in lines], axis=1)
        guesses = data.states @ weights + np.array([line.intercept for line in lines])
        return Sample(watch.cpu, watch.wall), float(((guesses - data.ratings) ** 2).mean())

    return run


@dataclass(frozen=True)
class Descent:
    """AdamW on the cached states, in float32, at a constant rate and without decay, until it is close enough.

    ``scaled`` standardises the states first, which is part of its time. Whether it is close is looked at
    after every pass, which is not.
    """

    data: Rated
    target: float
    most_seconds: float
    rate: float
    batch: int
    scaled: bool

    def run(self, seed: int) -> tuple[Sample, int, float]:
        """Time, passes, and the error relative to the target's."""
        torch.manual_seed(seed)
        x, y = torch.from_numpy(self.data.states), torch.from_numpy(self.data.ratings)
        with Stopwatch() as watch:
            if self.scaled:
                x = (x - x.mean(0)) / x.std(0)
            line = torch.nn.Linear(x.shape[1], y.shape[1])
            optimizer = torch.optim.AdamW(line.parameters(), lr=self.rate, weight_decay=0.0, fused=True)
        total, wall, passes, error = watch.cpu, watch.wall, 0, float("inf")
        while error > self.target and total < self.most_seconds:
            with Stopwatch() as watch:
                for part in torch.randperm(len(x)).split(self.batch) if self.batch < len(x) else [...]:
                    loss = torch.nn.functional.mse_loss(line(x[part]), y[part])
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    optimizer.zero_grad()
            total, wall, passes = total + watch.cpu, wall + watch.wall, passes + 1
            with torch.no_grad():
                error = float(torch.nn.functional.mse_loss(line(x), y))
        return Sample(total, wall), passes, error / self.target * CLOSE


def measure_ridge(data: Rated, rounds: int, most: float) -> dict[str, Any]:
    """The closed form against the fastest AdamW of the grid, in turn."""
    fit = closed_form(data)
    first, error = fit(0)
    best, grid_seconds = {}, 0.0
    for scaled in (False, True):
        limit = most * first.cpu
        for rate, batch in product(RATES, BATCHES):
            descent = Descent(data, error * CLOSE, limit, rate, batch, scaled)
            sample, _, left = descent.run(0)
            grid_seconds += sample.cpu
            if scaled not in best or left <= CLOSE:  # it had only the time of the best so far
                best[scaled] = replace(descent, most_seconds=most * first.cpu)
                limit = sample.cpu
    found: dict[str, list[tuple[int, float]]] = {}
    systems: dict[str, Callable[[int], Sample]] = {"closed form": lambda seed: fit(seed)[0]}

    def descend(name: str, descent: Descent) -> Callable[[int], Sample]:
        def run(seed: int) -> Sample:
            sample, passes, left = descent.run(seed)
            found.setdefault(name, []).append((passes, left))
            return sample

        return run

    width = data.states.shape[1]
    names = {
        "AdamW, states as they are": best[False],
        "AdamW, states standardised": best[True],
        "AdamW, holdtrue's defaults": replace(best[False], rate=0.04 / width, batch=16),
    }
    systems |= {name: descend(name, descent) for name, descent in names.items()}
    samples = alternate(systems, rounds)
    own = samples["closed form"]
    result: dict[str, Any] = {
        "data": data.name,
        "answers": len(data.states),
        "width": width,
        "aspects": data.ratings.shape[1],
        "training_error": error,
        "variance": float(data.ratings.var(0).mean()),
        "grid_seconds": grid_seconds,
        "systems": {"closed form": {"seconds": middle(own), "runs": own}},
    }
    for name, descent in names.items():
        result["systems"][name] = {
            "seconds": middle(samples[name]),
            "ratio": ratio(samples[name], own),
            "passes": median(passes for passes, _ in found[name]),
            "reached": all(left <= CLOSE for _, left in found[name]),
            "error": median(left for _, left in found[name]),
            "rate": descent.rate,
            "batch": min(descent.batch, len(data.states)),
            "runs": samples[name],
        }
    return result


def ranked(groups: Sequence[Group]) -> list[Tree]:
    """Trees with a rating for each answer, all different, and one comparison."""
    rated = [
        replace(
            group,
            answers=tuple(replace(answer, ratings={"rating": k}) for k, answer in enumerate(group.answers)),
            comparisons=(Comparison(1, 0),),
        )
        for group in groups
    ]
    return prepare(rated, encoder(), 16, "train", Lesson("prompt", "ratings")).trees


def measure_all_pairs(name: str, trees: list[Tree], size: str, per_step: int, rounds: int) -> dict[str, Any]:
    """Steps of both losses over the same trees, in turn."""
    model = reward_model(SIZES[size])
    model.bf16 = True
    parameters = dict(model.named_parameters())
    settings = TrainingSettings()
    parts = [trees[i : i + per_step] for i in range(0, len(trees), per_step)]

    def steps(loss: Loss) -> Callable[[int], Sample]:
        optimizer = loop.adamw(parameters, settings)

        def run(seed: int) -> Sample:
            with Stopwatch() as watch:
                for part in parts:
                    sums = plain(model, loss, loop.batches(model, part, settings))
                    norm = loop.update(list(parameters.values()), optimizer, sums, 1e-5, 1.0)
                    assert norm is not None, "a step was not finite"
            return Sample(watch.cpu / len(parts), watch.wall / len(parts))

        return run

    systems = {"one pair": steps(BradleyTerry()), "all pairs": steps(AllPairs())}
    alternate(systems, 1)  # the first step of each makes the optimiser's state
    samples = alternate(systems, rounds)
    return {
        "data": name,
        "answers": len(trees[0].answers),
        "prompts_per_step": per_step,
        "tokens_per_step": sum(tree.tokens for tree in trees) / len(parts),
        "seconds": {name: middle(runs) for name, runs in samples.items()},
        "ratio": ratio(samples["all pairs"], samples["one pair"]),
        "runs": samples,
    }


def measure_ranking(answers: int, prompts: int, rounds: int) -> dict[str, Any]:
    """A pair ranker with a new head on real answers: what it computes to rank them."""
    loaded = store.load(ModelSettings(path=encoder_folder(), kind=PairRanker()))
    groups = list(distinct(answers))[:prompts]
    comparer = PairComparer(loaded, loaded.encoder())
    computed = 0

    def count(module: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal computed
        computed += len(inputs[0].input_ids)

    loaded.model.register_forward_pre_hook(count)
    sequences: dict[str, float] = {}

    def rank(ranking: Ranking) -> Callable[[int], Sample]:
        def run(seed: int) -> Sample:
            nonlocal computed
            computed = 0
            with Stopwatch() as watch:
                judge(comparer, groups, ranking)
            sequences[ranking] = computed / len(groups)
            return Sample(watch.cpu, watch.wall)

        return run

    samples = alternate({"gap": rank("gap"), "knockout": rank("knockout")}, rounds)
    return {
        "answers": answers,
        "prompts": len(groups),
        "sequences": sequences,
        "seconds": {name: middle(runs) for name, runs in samples.items()},
        "ratio": ratio(samples["gap"], samples["knockout"]),
        "runs": samples,
    }


def distinct(answers: int) -> Iterator[Group]:
    """Prompts of the TruthfulQA rows with so many different answers."""
    for row in rows("truthfulqa_aspects/train.jsonl.gz"):
        texts = list(dict.fromkeys(row["completions"]))[:answers]
        if len(texts) == answers:
            yield Group(
                (Message("user", row["prompt"]),), tuple(Answer((Message("assistant", t),)) for t in texts)
            )


def ridge_part(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.quick:
        return [measure_ridge(drawn(200, 16), options.rounds, 20)]
    sets = [truthfulqa(None), drawn(20_000, 1024)]
    return [measure_ridge(data, options.rounds, MOST_TIMES) for data in sets]


def all_pairs_part(options: argparse.Namespace) -> list[dict[str, Any]]:
    size, count, per_step = ("tiny", 2, 2) if options.quick else ("small", 8, 4)
    made = {
        "hh K=4": lambda: hh(count, 4),
        "tldr K=4": lambda: tldr(count, 4),
        "hh K=8": lambda: hh(count, 8),
        "tldr K=8": lambda: tldr(count, 8),
    }
    chosen = dict(list(made.items())[:1]) if options.quick else made
    return [
        measure_all_pairs(name, ranked(make()), size, per_step, options.rounds)
        for name, make in chosen.items()
    ]


def ranking_part(options: argparse.Namespace) -> list[dict[str, Any]]:
    prompts = 2 if options.quick else 24
    return [measure_ranking(answers, prompts, options.rounds) for answers in (4, 8)]


PARTS = {"ridge": ridge_part, "all_pairs": all_pairs_part, "ranking": ranking_part}


def table(part: str, results: list[dict[str, Any]]) -> None:
    """Print one part."""
    lines: list[dict[str, Any]] = []
    for result in results:
        if part == "ridge":
            shape = f"{result['answers']} x {result['width']}, {result['aspects']} aspects"
            for name, system in result["systems"].items():
                lines.append(
                    {"data": result["data"], "shape": shape, "system": name}
                    | {key: system.get(key) for key in ("seconds", "ratio", "passes", "rate", "batch")}
                    | {"reached": str(system.get("reached", ""))}
                )
        else:
            flat = {
                f"{key}, {name}": value
                for key in ("sequences", "seconds")
                for name, value in result.get(key, {}).items()
            }
            names = ("data", "answers", "prompts", "prompts_per_step", "tokens_per_step")
            lines.append({n: result[n] for n in names if n in result} | flat | {"ratio": result["ratio"]})
    show(f"{part}, CPU seconds, medians", lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="toy sizes, no claim")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="parts (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="JSON file for the raw numbers")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for part in options.only or PARTS:
        results[part] = PARTS[part](options)
        write(options.output, {"machine": machine(), "kinds": results})
        print(f"{part}: done", file=sys.stderr, flush=True)
    for part, found in results.items():
        table(part, found)


if __name__ == "__main__":
    main()
