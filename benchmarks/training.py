"""Training: holdtrue against TRL's RewardTrainer, as it comes and tuned as well as it can be.

    python benchmarks/training.py [--quick] [--only NAME] [--rounds 3] [--output training.json]
    python benchmarks/training.py --device cuda --size large     (not run yet: no GPU was at hand)

All systems train the same rows with equal random weights, one epoch, AdamW, clipping at 1.0, bfloat16
autocast, equally many pairs a step, on one thread. The FLOP floor is 6 x (parameters of the layers) x
(unique tokens) over the machine's measured bfloat16 rate. Peak memory is taken in a process per system.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from statistics import mean, median
from typing import Any

from measurement import (
    Sample,
    Stopwatch,
    alternate,
    linear_rate,
    machine,
    middle,
    peak_memory,
    ratio,
    show,
    write,
)

# isort: split
import torch

from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.settings import TrainingSettings
from holdtrue.training import loop, order
from holdtrue.training.step import plain
from workloads import (
    POOL_PAIRS,
    SIZES,
    Size,
    Workload,
    hh,
    layer_parameters,
    qa,
    reward_model,
    tldr,
    workload,
)

PAIRS_PER_STEP = 8
H200_BF16 = 989e12  # FLOP/s, dense, as NVIDIA states it
OURS, DEFAULT, TUNED = "holdtrue", "TRL as it comes", "TRL tuned"


def profile(kind: str, answers: int, steps: int) -> Callable[[], Workload]:
    """Prompts with every answer in one pair, 8 pairs a step."""
    prompts = {"hh": hh, "tldr": tldr}[kind]

    def make() -> Workload:
        groups = prompts(max(POOL_PAIRS * 2 // answers, steps), answers)
        return workload(f"{kind} K={answers}", groups, steps, PAIRS_PER_STEP * 2 // answers)

    return make


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "hh-2": profile("hh", 2, 6),
    "tldr-2": profile("tldr", 2, 3),
    "hh-4": profile("hh", 4, 3),
    "tldr-4": profile("tldr", 4, 3),
    "hh-8": profile("hh", 8, 3),
    "tldr-8": profile("tldr", 8, 3),
    # the twelve pairs of two prompts a step; six are a pass, for the peer one prompt's answers
    "qa-all-pairs": lambda: workload("qa all pairs K=4", qa(291), 3, 2, passes_per_step=2),
}


class HoldtrueTraining:
    """One epoch of a workload with holdtrue's own loop functions."""

    def __init__(
        self, workload: Workload, size: Size, *, device: str = "cpu", flex: bool = False, budget: int | None
    ) -> None:
        self.workload = workload
        self.model = reward_model(size, device=device, flex=flex)
        self.model.bf16 = True
        limits = {} if budget is None else {"max_tokens_per_pass": budget}
        self._settings = TrainingSettings(
            train_batch_size=len(workload.steps[0]), num_train_epochs=1, **limits
        )
        self._loss = BradleyTerry()

    def rewards(self, trees: list[Any]) -> torch.Tensor:
        """Rewards of the trees' answers in float32."""
        self.model.bf16 = False
        with torch.no_grad():
            rewards = self.model(self.model.batch(trees)).rewards
        self.model.bf16 = True
        assert rewards is not None
        return rewards.cpu()

    def run(self, seed: int) -> Sample:
        """Train one epoch."""
        named = dict(self.model.named_parameters())
        optimizer = loop.adamw(named, self._settings)
        counts = [len(tree.first) for tree in self.workload.trees]
        with Stopwatch() as watch:
            for step in order.steps(counts, self._settings, 1, seed):
                trees = [self.workload.trees[i] for i in step.trees]
                sums = plain(self.model, self._loss, loop.batches(self.model, trees, self._settings))
                norm = loop.update(list(named.values()), optimizer, sums, 1e-4, self._settings.max_grad_norm)
                assert norm is not None, "a step was not finite"
        return Sample(watch.cpu, watch.wall, self.workload.unique_tokens)


def build(name: str, job: Workload, size: Size, options: argparse.Namespace) -> Any:
    """One system; TRL is imported only where it is measured, so that memory is its own."""
    if name == OURS:
        return HoldtrueTraining(
            job, size, device=options.device, flex=options.device == "cuda", budget=options.budget
        )
    from peers import TrlTraining

    return TrlTraining(job, size, tuned=name == TUNED, device=options.device)


def check_agreement(ours: HoldtrueTraining, peer: Any) -> float:
    """Largest difference of rewards in float32, relative to the largest; refuses to time what differs."""
    trees = ours.workload.trees[-2:]
    sequences = [tree.prompt.tolist() + answer.tolist() for tree in trees for answer in tree.answers]
    expected = peer.rewards(sequences)
    error = float((ours.rewards(trees) - expected).abs().max() / expected.abs().max())
    if error > (1e-5 if ours.model.device.type == "cpu" else 1e-3):
        raise SystemExit(f"rewards of holdtrue and TRL differ by {error:.1e} of the largest")
    return error


def systems_of(job: Workload) -> list[str]:
    """TRL as it comes is measured on ordinary pairs only."""
    return [OURS, TUNED, DEFAULT] if job.answers == 2 else [OURS, TUNED]


def measure(key: str, size: Size, options: argparse.Namespace) -> dict[str, Any]:
    """One workload: agreement, alternating rounds, memory."""
    job = WORKLOADS[key]()
    built = {name: build(name, job, size, options) for name in systems_of(job)}
    error = max(check_agreement(built[OURS], peer) for name, peer in built.items() if name != OURS)
    floor = 6 * layer_parameters(built[OURS].model) * job.unique_tokens
    rates = [linear_rate()]
    samples = alternate({name: system.run for name, system in built.items()}, options.rounds)
    rates.append(linear_rate())
    memory = {name: peak(key, name, options) for name in built} if options.memory else {}
    result = {
        "workload": key,
        "pairs": job.pairs,
        "answers": job.answers,
        "layers": size.layers,
        "width": size.width,
        "unique_tokens": job.unique_tokens,
        "sharing_factor": job.real_tokens / job.unique_tokens,
        "all_pairs_factor": job.expanded_tokens / job.real_tokens,
        "expanded_tokens": job.expanded_tokens,
        "reward_difference": error,
        "floor_flop": floor,
        "rate": median(rates),
        "systems": {},
    }
    unit = "cpu" if options.device == "cpu" else "wall"
    ours = middle(samples[OURS], unit)
    for name, runs in samples.items():
        seconds = middle(runs, unit)
        result["systems"][name] = {
            "seconds": seconds,
            "wall": middle(runs, "wall"),
            "ratio": ratio(runs, samples[OURS], unit),
            "pairs_per_second": job.pairs / seconds,
            "tokens_per_second": job.expanded_tokens / seconds,
            "times_floor": seconds / (floor / median(rates)),
            "mfu": floor / seconds / H200_BF16,
            "padding": mean(run.padded_tokens or 0 for run in runs) / job.expanded_tokens,
            "peak_memory": memory.get(name, {}).get("peak"),
            "memory_before": memory.get(name, {}).get("before"),
            "runs": runs,
        }
    assert ours > 0
    return result


def peak(key: str, name: str, options: argparse.Namespace) -> dict[str, int]:
    """Peak memory of one system in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--only", key, "--device", options.device]
    command += ["--size", options.size] + (["--quick"] if options.quick else [])
    command += ["--budget", str(options.budget)] if options.budget else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def report_peak(options: argparse.Namespace, size: Size) -> None:
    """What the process of :func:`peak` does: train once, print memory before and at its highest."""
    system = build(options.peak, WORKLOADS[options.only[0]](), size, options)
    before = peak_memory()
    system.run(0)
    highest = torch.cuda.max_memory_allocated() if options.device == "cuda" else peak_memory()
    print(json.dumps({"before": before, "peak": highest}))


def table(results: list[dict[str, Any]], device: str) -> None:
    """Print all workloads."""
    lines = []
    for result in results:
        for name, system in result["systems"].items():
            lines.append(
                {
                    "data": result["workload"],
                    "system": name,
                    "pairs": result["pairs"],
                    "seconds": system["seconds"],
                    "pairs/s": system["pairs_per_second"],
                    "tokens/s": round(system["tokens_per_second"]),
                    "ratio": system["ratio"],
                    **({"floors": system["times_floor"]} if device == "cpu" else {"MFU": system["mfu"]}),
                    "padding": None if name == OURS else system["padding"],
                    "sharing": result["sharing_factor"],
                    "all pairs": result["all_pairs_factor"],
                    "peak MB": system["peak_memory"] and round(system["peak_memory"] / 2**20),
                }
            )
    unit = "CPU seconds" if device == "cpu" else "seconds"
    layers, width = results[0]["layers"], results[0]["width"]
    show(f"Training, {layers} layers of width {width}, {unit}, medians", lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny model, two workloads, no claim")
    parser.add_argument("--only", nargs="*", choices=list(WORKLOADS), help="workloads (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--budget", type=int, help="max_tokens_per_pass (default: holdtrue's)")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--output", help="JSON file for the raw numbers")
    parser.add_argument("--peak", choices=[OURS, TUNED, DEFAULT], help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = SIZES["tiny" if options.quick else options.size]
    if options.peak:
        return report_peak(options, size)
    chosen = options.only or (["hh-2", "qa-all-pairs"] if options.quick else list(WORKLOADS))
    results = []
    for key in chosen:
        results.append(measure(key, size, options))
        write(options.output, {"machine": machine(), "training": results})
        print(f"{key}: done", file=sys.stderr, flush=True)
    table(results, options.device)


if __name__ == "__main__":
    main()
