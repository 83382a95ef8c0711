"""What watching rollouts costs: the streaming loop detector, the guard in a decoding step, the Monitor.

    python benchmarks/health.py [--quick] [--rounds 5] [--output health.json]

The policy is stories260K (a Llama of 5 layers and width 64, 0.26 M parameters), the smallest there is: on any
other the shares are smaller. 256 rows of 128 new tokens, sampled. Every round times each part once.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

from measurement import Sample, Stopwatch, alternate, machine, middle, show, write

# isort: split
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteriaList

from holdtrue.doctor import Monitor
from holdtrue.health.batch import Batch
from holdtrue.health.cycles import cycles, tail_cycle
from holdtrue.health.stream import LoopDetector, RepetitionDetection
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.guard import LoopGuard
from workloads import SHARED

ROWS, TOKENS = 256, 128


def text_like(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Token ids with the frequencies of text (Zipf), which repeat by chance as often as text does."""
    return np.minimum(rng.zipf(1.3, shape), 150_000).astype(np.int64)


def streaming(rows: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of the detector alone, with and without numbers made equal."""
    numbers = np.zeros(150_001, dtype=bool)
    numbers[20:30] = True

    def run(size: int, table: np.ndarray | None) -> Any:
        def once(seed: int) -> Sample:
            ids = text_like(np.random.default_rng(seed), (tokens, rows))
            detector = LoopDetector(rows, RepetitionDetection(max_pattern_size=size), numbers=table)
            with Stopwatch() as watch:
                for now in ids:
                    detector.update(now)
            return Sample(watch.cpu, watch.wall)

        return once

    systems = {
        "period up to 32": run(32, None),
        "period up to 128 (default)": run(128, None),
        "period up to 64, numbers alike": run(64, numbers),
    }
    samples = alternate(systems, rounds)
    return {name: rows * tokens / middle(found) for name, found in samples.items()}


def offline(rounds: int, tokens: int) -> dict[str, Any]:
    """Symbols a second of the offline detectors, on rows of 4,000 without a loop."""

    def run(function: Any, **more: Any) -> Any:
        def once(seed: int) -> Sample:
            rows = text_like(np.random.default_rng(seed), (tokens // 4000, 4000))
            with Stopwatch() as watch:
                for row in rows:
                    function(row, max_period=128, min_copies=3, min_cover=24, **more)
            return Sample(watch.cpu, watch.wall)

        return once

    samples = alternate({"tail_cycle": run(tail_cycle, slack=16), "cycles": run(cycles)}, rounds)
    return {name: tokens // 4000 * 4000 / middle(found) for name, found in samples.items()}


def step(rows: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds of sampling and training, of the guard, and of the Monitor with everything given."""
    folder = SHARED / "models" / "stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    vocabulary = Vocabulary.of(tokenizer)
    prompt = torch.full((rows, 1), tokenizer.bos_token_id)

    def generate(seed: int, *guards: LoopGuard) -> torch.Tensor:
        torch.manual_seed(seed)
        ids = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            max_new_tokens=tokens,
            eos_token_id=[],
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList(guards),
        )
        return ids[:, 1:]

    def sampling(seed: int) -> Sample:
        with Stopwatch() as watch:
            generate(seed)
        return Sample(watch.cpu, watch.wall)

    written = {seed: generate(seed) for seed in range(rounds)}

    trained = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(trained.parameters())

    def training(seed: int) -> Sample:
        """One pass of policy gradient over the rollouts, in 8 micro-batches."""
        with Stopwatch() as watch:
            for ids in torch.cat([prompt, written[seed]], dim=1).chunk(8):
                logits = trained(ids[:, :-1]).logits
                chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])
                (-chosen.mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return Sample(watch.cpu, watch.wall)

    def guarding(seed: int) -> Sample:
        guard = LoopGuard(vocabulary)
        ids = torch.cat([prompt, written[seed]], dim=1)
        with Stopwatch() as watch:
            for length in range(2, ids.shape[1] + 1):
                guard(ids[:, :length])
        return Sample(watch.cpu, watch.wall)

    def monitoring(seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        ids = written[seed]
        logprobs = -rng.exponential(1, ids.shape)
        batch = Batch(
            ids=ids,
            step=seed,
            logprobs=logprobs,
            trained_logprobs=logprobs + rng.normal(0, 0.01, ids.shape),
            entropies=rng.exponential(1, ids.shape),
            rewards=rng.normal(size=rows),
            advantages=rng.normal(size=rows),
            groups=np.arange(rows) // 4,
            finish=["length"] * rows,
        )
        with Stopwatch() as watch:
            monitor.update(batch)
        return Sample(watch.cpu, watch.wall)

    monitor = Monitor(vocabulary)
    monitor.calibrate(Batch(ids=written[0], step=0))
    parts = {"sampling": sampling, "training": training, "guard": guarding, "monitor": monitoring}
    seconds = {name: middle(found) for name, found in alternate(parts, rounds).items()}
    return {
        **seconds,
        "guard, share of sampling": seconds["guard"] / seconds["sampling"],
        "monitor, share of a step": seconds["monitor"] / (seconds["sampling"] + seconds["training"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="toy size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output")
    options = parser.parse_args()
    rows, tokens, rounds = (64, 16, 1) if options.quick else (ROWS, TOKENS, options.rounds)

    found = {
        "machine": machine(),
        "streaming": streaming(rows, 4 * tokens, rounds),
        "offline": offline(rounds, 4000 if options.quick else 400_000),
        "step": step(rows, tokens, rounds),
    }
    speeds = {f"streaming, {name}": v for name, v in found["streaming"].items()} | found["offline"]
    show(
        f"{rows} rows, {rounds} rounds",
        [{"what": name, "M tokens/s": value / 1e6} for name, value in speeds.items()],
        ["what", "M tokens/s"],
    )
    show(
        f"{rows} rows x {tokens} tokens",
        [{"what": name, "seconds": f"{value:.4f}"} for name, value in found["step"].items()],
        ["what", "seconds"],
    )
    write(options.output, {"health": found})


if __name__ == "__main__":
    main()
