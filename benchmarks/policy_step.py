"""A whole step of policy optimisation, sampling and learning, beside TRL's GRPO and RLOO.

    python benchmarks/policy_step.py [--quick] [--rounds 3] [--output policy_step.json]

Policies, prompts and answers are those of ``sampler.py``: random Llamas of 0.6 M and 11 M parameters in
float32, 4 prompts of 72 or 300 tokens, 48 new tokens a row. The reward is the share of an answer's tokens
among the first 512 ids, the loss is on-policy without KL, AdamW at one rate. TRL 1.16 is tuned: no gradient
checkpointing, batches of a whole step. Every run has a process of its own; its first step is a warm-up, and
its seconds are those of the others. ``--curves`` trains the small policy for 60 steps with each of three
seeds instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from measurement import Stopwatch, machine, peak_memory, show, write

# isort: split
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sampler import END, FOREVER, NEW, PROMPTS, policy

COUNTED = 512
RATE = {"tiny": 3e-3, "10M": 3e-4}


def share(ids: Sequence[int]) -> float:
    """The reward of an answer."""
    return sum(token < COUNTED for token in ids) / len(ids)


def tokenizer() -> PreTrainedTokenizerFast:
    """One word an id."""
    words = {"<pad>": 0, "<bos>": 1, "<eos>": END} | {f"t{i}": i for i in range(3, 4096)}
    backend = Tokenizer(models.WordLevel(words, unk_token="t3"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def prompts(length: int) -> list[np.ndarray]:
    """The ids of the prompts."""
    return [np.random.default_rng(p).integers(3, 4096, length) for p in range(PROMPTS)]


def holdtrue(size: str, length: int, group: int, algorithm: str, steps: int, seed: int) -> dict[str, Any]:
    """Our trainer, everything of a step included."""
    from holdtrue.policy.decoding import Decoding
    from holdtrue.policy.prompts import Prompts
    from holdtrue.policy.rewards import FunctionJudge, RewardStack
    from holdtrue.policy.sampler import SharedPrefixSampler
    from holdtrue.policy.settings import build
    from holdtrue.policy.trainer import Optimisation, PolicyTrainer
    from holdtrue.rundir import RunDir

    made = build(
        {
            "policy": {"path": "random"},
            "rewards": [{"function": "share.py:share", "whiten": False}],
            "algorithm": {"kind": algorithm, "kl_coef": 0},
            "decoding": {"max_new_tokens": NEW},
            "guard": {"on_hit": "none", "calibration": group},
            "training": {
                "max_steps": steps,
                "prompts_per_step": PROMPTS,
                "group": group,
                "rows_per_pass": PROMPTS * group,
                "learning_rate": RATE[size],
                "adam_beta2": 0.999,
            },
            "seed": seed,
        }
    )
    assert made.decoding == Decoding(max_new_tokens=NEW)
    ids, rewards = prompts(length), []
    judge = FunctionJudge(
        lambda prompts, texts, completion_ids: [share(row) for row in completion_ids], "share"
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = PolicyTrainer(
            Optimisation(
                policy=policy(size),
                tokenizer=tokenizer(),
                vocabulary=FOREVER,
                sampler=SharedPrefixSampler(FOREVER, made.decoding),
                rewards=RewardStack([judge], made.rewards, made.guard),
                prompts=Prompts([" ".join(f"t{i}" for i in row) for row in ids], ids),
                held_out=Prompts(),
                settings=made,
                run=RunDir(Path(folder)),
                learning_rate=RATE[size],
                tell=lambda row: rewards.append(row["reward"]) if row["event"] == "train" else None,
            )
        )
        torch.manual_seed(seed)
        trainer._calibrate()
        trainer.step()
        with Stopwatch() as watch:
            for _ in range(steps - 1):
                trainer.step()
    return {"cpu": watch.cpu, "wall": watch.wall, "rewards": rewards}


def trl(size: str, length: int, group: int, algorithm: str, steps: int, seed: int) -> dict[str, Any]:
    """TRL's trainer on the same ids."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    class Timer(TrainerCallback):
        watch = Stopwatch()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == 1:
                self.watch.__enter__()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.watch.__exit__()

    config, made = (GRPOConfig, GRPOTrainer) if algorithm == "grpo" else (RLOOConfig, RLOOTrainer)
    own = {"loss_type": "grpo"} if algorithm == "grpo" else {}
    timer = Timer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = made(
            policy(size),
            reward_funcs=lambda completion_ids, **_: [share(row) for row in completion_ids],
            args=config(
                folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                beta=0.0,
                max_steps=steps,
                per_device_train_batch_size=PROMPTS * group,
                num_generations=group,
                max_completion_length=NEW,
                learning_rate=RATE[size],
                lr_scheduler_type="constant",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=seed,
                **own,
            ),
            train_dataset=Dataset.from_dict(
                {"prompt": [" ".join(f"t{i}" for i in row) for row in prompts(length)]}
            ),
            processing_class=tokenizer(),
            callbacks=[timer],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    return {"cpu": timer.watch.cpu, "wall": timer.watch.wall, "rewards": rewards}


SYSTEMS = {"holdtrue": holdtrue, "TRL": trl}


def once(
    system: str, size: str, length: int, group: int, algorithm: str, steps: int, seed: int
) -> dict[str, Any]:
    """One run in a process of its own."""
    told = [system, size, length, group, algorithm, steps, seed]
    command = [sys.executable, __file__, "--one", json.dumps(told)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(found.splitlines()[-1])
    return result


def speed(size: str, length: int, group: int, algorithm: str, steps: int, rounds: int) -> dict[str, Any]:
    """A workload's line: medians over the rounds, the systems in turn."""
    told = (size, length, group, algorithm, steps)
    found = [{system: once(system, *told, seed) for system in SYSTEMS} for seed in range(rounds)]
    line: dict[str, Any] = {"policy": size, "prompt": length, "G": group, "algorithm": algorithm}
    for system in SYSTEMS:
        line[f"{system}, s a step"] = median(one[system]["cpu"] for one in found) / (steps - 1)
        line[f"{system}, MB"] = median(one[system]["peak"] for one in found) / 1e6
    line["times ours"] = median(one["TRL"]["cpu"] / one["holdtrue"]["cpu"] for one in found)
    return line


def curves(steps: int, seeds: int) -> list[dict[str, Any]]:
    """Mean reward of the first, the middle and the last five steps, a line for each system and seed."""
    lines = []
    for algorithm in ("grpo", "rloo"):
        for system in SYSTEMS:
            for seed in range(seeds):
                rewards = once(system, "tiny", 72, 8, algorithm, steps, seed)["rewards"]
                parts = {"first": rewards[:5], "middle": rewards[steps // 2 - 2 :][:5], "last": rewards[-5:]}
                named = {name: mean(part) for name, part in parts.items()}
                lines.append({"algorithm": algorithm, "system": system, "seed": seed} | named)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the tiny policy, one round, no claim")
    parser.add_argument("--curves", action="store_true", help="what is learnt instead of how fast")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, or seeds of the curves")
    parser.add_argument("--output", help="file for the numbers")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        system, *told = json.loads(options.one)
        print(json.dumps(SYSTEMS[system](*told) | {"peak": peak_memory()}))
        return
    if options.curves:
        lines = curves(8 if options.quick else 60, options.rounds)
        title = "Share of the counted ids in answers"
    else:
        sizes = ["tiny"] if options.quick else list(RATE)
        works = [(size, length, group) for size in sizes for length in (72, 300) for group in (4, 8)]
        rounds = 1 if options.quick else options.rounds
        lines = [speed(*work, "grpo", 4, rounds) for work in works]
        lines += [speed(size, 300, 8, "rloo", 4, rounds) for size in sizes]
        title = "Steps of policy optimisation, CPU seconds on one thread"
    show(title, lines, list(lines[0]))
    write(options.output, {"machine": machine(), "lines": lines})


if __name__ == "__main__":
    main()
