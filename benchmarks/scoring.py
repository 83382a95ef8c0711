"""Scoring from text: holdtrue's RewardScorer against transformers' text-classification pipeline.

    python benchmarks/scoring.py [--quick] [--only NAME] [--rounds 3] [--output scoring.json]

The pipeline gets ready-rendered texts sorted by length, and the batch size (1, 8, 16) that a trial on a
quarter of them finds fastest, in float32 and with bfloat16 weights. holdtrue renders, encodes and
scores the groups. Equal random weights, one thread, CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from measurement import Sample, Stopwatch, alternate, linear_rate, machine, middle, show, write

# isort: split
import numpy as np
import torch
import transformers

from holdtrue.records import Group
from holdtrue.reward.scorer import RewardScorer
from workloads import SIZES, Size, classifier, hh, layer_parameters, loaded, reward_model, tldr, tokenizer

PROMPTS = {1: 32, 4: 12, 16: 4}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCH_SIZES = (1, 8, 16)
WORKLOADS: dict[str, Callable[[int], list[Group]]] = {
    f"{name}-{answers}": lambda scale, prompts=prompts, answers=answers: prompts(
        max(2, PROMPTS[answers] // scale), answers
    )
    for name, prompts in (("hh", hh), ("tldr", tldr))
    for answers in PROMPTS
}


class Holdtrue:
    """Scores groups from text."""

    def __init__(self, groups: list[Group], size: Size, *, bf16: bool) -> None:
        model = reward_model(size)
        model.bf16 = bf16
        self.groups = groups
        self.scorer = RewardScorer(loaded(model))

    def rewards(self) -> np.ndarray:
        """Rewards of all answers in order."""
        return np.concatenate(self.scorer.score(self.groups))

    def run(self, seed: int) -> Sample:
        """Score everything once."""
        with Stopwatch() as watch:
            self.rewards()
        return Sample(watch.cpu, watch.wall)


class Pipeline:
    """transformers' pipeline on rendered texts in order of length."""

    def __init__(self, groups: list[Group], size: Size, dtype: torch.dtype) -> None:
        encoder = loaded(reward_model(SIZES["tiny"])).encoder()
        texts = [encoder.render(g.conversation(k)) for g in groups for k in range(len(g.answers))]
        self.order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        self.texts = [texts[i] for i in self.order]
        self.pipe = transformers.pipeline(
            "text-classification",
            model=classifier(size, dtype=dtype),
            tokenizer=tokenizer(),
            function_to_apply="none",
            device="cpu",
        )
        trials = {batch: self._timed(self.texts[::4], batch) for batch in BATCH_SIZES}
        self.trials = trials
        self.batch_size = min(trials, key=lambda batch: trials[batch])

    def _timed(self, texts: list[str], batch_size: int) -> float:
        with Stopwatch() as watch:
            self.pipe(texts, batch_size=batch_size)
        return watch.cpu

    def rewards(self) -> np.ndarray:
        """Rewards of all answers in order."""
        found = np.empty(len(self.texts), dtype=np.float32)
        found[self.order] = [row["score"] for row in self.pipe(self.texts, batch_size=self.batch_size)]
        return found

    def run(self, seed: int) -> Sample:
        """Score everything once."""
        with Stopwatch() as watch:
            self.pipe(self.texts, batch_size=self.batch_size)
        return Sample(watch.cpu, watch.wall)


def measure(key: str, size: Size, rounds: int, scale: int) -> dict[str, Any]:
    """One workload, both precisions."""
    groups = WORKLOADS[key](scale)
    systems: dict[str, Any] = {}
    for name, dtype in PRECISIONS.items():
        systems[f"holdtrue {name}"] = Holdtrue(groups, size, bf16=name == "bf16")
        systems[f"pipeline {name}"] = Pipeline(groups, size, dtype)
    ours, theirs = systems["holdtrue fp32"].rewards(), systems["pipeline fp32"].rewards()
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if error > 1e-5:
        raise SystemExit(f"rewards of holdtrue and the pipeline differ by {error:.1e} of the largest")
    lengths = [len(ids) for item in loaded_ids(systems["holdtrue fp32"]) for ids in item]
    rate = linear_rate()
    samples = alternate({name: system.run for name, system in systems.items()}, rounds)
    fastest = min(middle(samples[f"pipeline {name}"]) for name in PRECISIONS)
    result = {
        "workload": key,
        "layers": size.layers,
        "width": size.width,
        "prompts": len(groups),
        "answers": len(ours),
        "tokens": sum(lengths),
        "rate": rate,
        "flop_per_token": 2 * layer_parameters(systems["holdtrue fp32"].scorer.loaded.model),
        "reward_difference": error,
        "systems": {},
    }
    for name, runs in samples.items():
        precision = name.split()[1]
        result["systems"][name] = {
            "seconds": middle(runs),
            "wall": middle(runs, "wall"),
            "answers_per_second": len(ours) / middle(runs),
            "against_same_precision": middle(samples[f"pipeline {precision}"]) / middle(runs),
            "against_fastest_peer": fastest / middle(runs),
            "batch_size": getattr(systems[name], "batch_size", None),
            "trials": getattr(systems[name], "trials", None),
            "runs": runs,
        }
    return result


def loaded_ids(system: Holdtrue) -> list[tuple[Any, ...]]:
    """Token ids of every answer; none may be left out."""
    encoded = [item.ids for item in system.scorer.encoder.encode(system.groups)]
    assert all(ids is not None for item in encoded for ids in item), "an answer does not fit the model"
    return encoded


def table(results: list[dict[str, Any]]) -> None:
    """Print all workloads."""
    lines = [
        {
            "data": result["workload"],
            "system": name,
            "answers": result["answers"],
            "batch": system["batch_size"],
            "seconds": system["seconds"],
            "answers/s": system["answers_per_second"],
            "x pipeline": system["against_same_precision"],
            "x best pipeline": system["against_fastest_peer"],
        }
        for result in results
        for name, system in result["systems"].items()
    ]
    layers, width = results[0]["layers"], results[0]["width"]
    show(f"Scoring from text, {layers} layers of width {width}, CPU seconds, medians", lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny model, two workloads, no claim")
    parser.add_argument("--only", nargs="*", choices=list(WORKLOADS), help="workloads (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="JSON file for the raw numbers")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    size, scale = (SIZES["tiny"], 8) if options.quick else (SIZES["small"], 1)
    results = []
    for key in options.only or (["tldr-1", "tldr-4"] if options.quick else list(WORKLOADS)):
        results.append(measure(key, size, options.rounds, scale))
        write(options.output, {"machine": machine(), "scoring": results})
        print(f"{key}: done", file=sys.stderr, flush=True)
    table(results)


if __name__ == "__main__":
    main()
