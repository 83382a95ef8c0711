"""Refresh: what a step of MetaRM costs beside our own vanilla step and beside TRL's.

    python benchmarks/refresh.py [--quick] [--only NAME] [--rounds 3] [--output refresh.json]

A step is 16 pairs and, for MetaRM, a meta batch of 4 prompts with 4 answers each: counted in sequences that
go forward and backward, (32 + 16) / 32 = 1.5 of vanilla. In trees it is less, as four answers share a prompt
in the meta batch and two in the pairs. Equal random weights, AdamW, clipping and bfloat16 autocast (weights
and the inner step are float32) in every system, one thread. TRL trains the same pairs without MetaRM,
tuned as ``training.py`` has it: pairs of like length, no checkpointing, nothing dropped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from measurement import Sample, Stopwatch, alternate, machine, middle, ratio, show, write

# isort: split
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.refresh.samples import Samples, plant
from holdtrue.refresh.steps import Lookahead
from holdtrue.settings import TrainingSettings
from holdtrue.tokens.tree import Tree
from holdtrue.training import loop
from holdtrue.training.distributed import World
from holdtrue.training.step import GradientStep, plain
from peers import TrlTraining
from workloads import POOL_PAIRS, SIZES, Size, Workload, encoder, hh, reward_model, tldr, workload

PAIRS, PROMPTS, ANSWERS = 16, 4, 4
SYSTEMS: dict[str, dict[str, Any] | None] = {
    "vanilla": None,
    "metarm, first order": {},
    "metarm, head only": {"scope": "head"},
    "metarm, second order": {"second_order": True},
}
PEER = "TRL tuned, vanilla"
WORKLOADS = {"hh": hh, "tldr": tldr}


class Training:
    """Some steps of one system over the same pairs and the same meta batches."""

    def __init__(self, options: dict[str, Any] | None, job: Workload, meta: list[Tree], size: Size) -> None:
        self.pairs = job.trees
        self.settings = TrainingSettings(train_batch_size=PAIRS)
        self.model = reward_model(size)
        self.model.bf16 = True
        self.optimizer = loop.adamw(dict(self.model.named_parameters()), self.settings)
        self.step: GradientStep = plain
        if options is not None:
            samples = Samples(meta, PROMPTS, self.settings, 0, World())
            self.step = Lookahead(plain, samples, 0.1, **options)

    def run(self, _: int) -> Sample:
        """Every pair once."""
        parameters = list(self.model.parameters())
        with Stopwatch() as watch:
            for start in range(0, len(self.pairs), PAIRS):
                trees = self.pairs[start : start + PAIRS]
                sums = self.step(self.model, BradleyTerry(), loop.batches(self.model, trees, self.settings))
                norm = loop.update(parameters, self.optimizer, sums, 1e-6, 1.0)
                assert norm is not None, "a step was not finite"
        return Sample(watch.cpu, watch.wall)


def measure(key: str, size: Size, steps: int, rounds: int) -> dict[str, Any]:
    """One workload, all systems in alternating rounds."""
    profile: Callable[..., Any] = WORKLOADS[key]
    job = workload(key, profile(POOL_PAIRS, 2), steps, PAIRS)
    meta, left_out = plant(profile(PROMPTS * steps, ANSWERS, seed=1), encoder(), ANSWERS)
    assert not left_out, f"benchmark rows were dropped: {dict(left_out)}"
    systems = {name: Training(options, job, meta, size).run for name, options in SYSTEMS.items()}
    systems[PEER] = TrlTraining(job, size, tuned=True).run
    samples = alternate(systems, rounds)
    tokens = [sum(tree.tokens for tree in trees) for trees in (job.trees, meta)]
    return {
        "workload": key,
        "steps": steps,
        "tokens": tokens[0] / steps,
        "meta_tokens": tokens[1] / steps,
        "systems": {
            name: {
                "seconds": middle(runs) / steps,
                "ratio": ratio(runs, samples["vanilla"]),
                "of_peer": ratio(runs, samples[PEER]),
                "runs": runs,
            }
            for name, runs in samples.items()
        },
    }


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the tiny model and one step a round")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output")
    options = parser.parse_args()
    size, steps = (SIZES["tiny"], 1) if options.quick else (SIZES[options.size], options.steps)
    results = [measure(key, size, steps, options.rounds) for key in options.only]
    rows = [
        {
            "data": result["workload"],
            "system": name,
            "seconds a step": system["seconds"],
            "of vanilla": system["ratio"],
            "of TRL": system["of_peer"],
            "tokens a step": round(result["tokens"]),
            "meta tokens": 0 if name in ("vanilla", PEER) else round(result["meta_tokens"]),
        }
        for result in results
        for name, system in result["systems"].items()
    ]
    show(f"MetaRM, {PAIRS} pairs and {PROMPTS} x {ANSWERS} answers a step", rows, list(rows[0]))
    write(options.output, {"machine": machine(), "refresh": results})


if __name__ == "__main__":
    main()
