"""Accuracy and cost on the same pairs: holdtrue, TRL's RewardTrainer, sentence-transformers' CrossEncoder.

    python benchmarks/head_to_head.py [--quick] [--only CASE] [--rounds 3] [--output head_to_head.json]

``decoder``  stories260K with a head at its last token: holdtrue and TRL, from the same weights, head
             included, on the same token ids, in float32
``encoder``  all-MiniLM-L6-v2, prompt and answer as its two texts: holdtrue and a CrossEncoder with
             RankNetLoss in natural logarithms, which on two answers is the Bradley-Terry loss; both under
             bfloat16 autocast

Every system trains one epoch of the same HH-RLHF harmless pairs, 16 a step, with AdamW, the same decay, betas
and clipping, warm-up over 5 % of the steps and a cosine, on one thread. Its learning rate is the one of three
with the least log loss on held-out training pairs, by a run with seed 0 on the others; then it trains on all
of them, once a round, with the round's number as its seed. The peers get their pairs grouped by length. The
rest is as each has it: a CrossEncoder reads the first token through the encoder's pooling layer and drops
out, holdtrue averages all tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from measurement import Sample, Stopwatch, machine, middle, ratio, show, write

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import SequentialSampler

from holdtrue.data.splits import read_groups
from holdtrue.evaluation.paired import interval
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.records import Group
from holdtrue.reward import store
from holdtrue.reward.model import RewardModel, given
from holdtrue.settings import DataSettings, ModelSettings, TrainingSettings
from holdtrue.tokens.sentences import side
from holdtrue.tokens.tree import Tree
from holdtrue.training import loop, order, schedules
from holdtrue.training.preparation import prepare
from holdtrue.training.step import plain
from workloads import SHARED, encoder_folder, pairs_of

PAIRS_PER_STEP = 16
SETTINGS = TrainingSettings(train_batch_size=PAIRS_PER_STEP, num_train_epochs=1)
OURS = "holdtrue"
Gaps = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A model and how much of the data it is trained on.

    Attributes:
        peer: the other system.
        longest: tokens of the longest conversation that is used.
        train, held_out: pairs to train on, and how many of these choose the learning rate.
        rates: the learning rates to choose from; the middle one is holdtrue's default.
    """

    name: str
    folder: str
    peer: str
    longest: int
    train: int
    held_out: int
    rates: tuple[float, float, float]
    bf16: bool

    def load(self, seed: int) -> store.Loaded:
        """The model with a new head, as holdtrue starts from it."""
        loaded = store.load(ModelSettings(path=self.folder), seed=seed)
        loaded.model.bf16 = self.bf16
        return loaded


@dataclass(frozen=True)
class Row:
    """One pair of answers, as a group and as the tree of its two sequences."""

    group: Group
    tree: Tree

    @property
    def ids(self) -> tuple[list[int], list[int]]:
        """Both sequences in full, the preferred one first."""
        return pairs_of(self.tree)[0]

    @property
    def texts(self) -> tuple[str, str, str]:
        """Prompt, preferred answer and the other, as an encoder is given them."""
        (comparison,) = self.group.comparisons
        answers = self.group.answers
        return (
            side(self.group.prompt),
            side(answers[comparison.first].content),
            side(answers[comparison.second].content),
        )


@dataclass(frozen=True)
class Trained:
    """What training took, and what measures the gaps (B,) of the rewards on other rows."""

    sample: Sample
    gaps: Callable[[Sequence[Row]], Gaps]


System = Callable[[Case, Sequence[Row], float, int], Trained]


def usable(case: Case, split: str) -> list[Row]:
    """The pairs of a split that fit all systems, one per prompt."""
    path = SHARED / "data" / "hh_harmless" / f"{split}.jsonl.gz"
    groups, _ = read_groups([str(path)], DataSettings(), None)
    encoder = case.load(0).encoder()
    found: dict[str, Row] = {}
    for group in groups:
        trees = prepare([group], encoder, 2, split).trees
        if len(trees) == 1 and len(trees[0].first) == 1 and trees[0].longest <= case.longest:
            found.setdefault(group.prompt_key, Row(group, trees[0]))
    return list(found.values())


class Counter:
    """Counts the tokens that a backbone computes, padding included."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.tokens = 0
        self._hook = backbone.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.tokens += (named["input_ids"] if "input_ids" in named else inputs[0]).numel()

    def stop(self) -> int:
        """What was counted; counts no more."""
        self._hook.remove()
        return self.tokens


def train_holdtrue(case: Case, rows: Sequence[Row], rate: float, seed: int) -> Trained:
    """An epoch with the functions of holdtrue's own loop."""
    model = case.load(seed).model
    parameters = dict(model.named_parameters())
    optimizer = loop.adamw(parameters, SETTINGS)
    plan = order.steps([1] * len(rows), SETTINGS, 1, seed)
    loop.training_mode(model, SETTINGS)
    counter = Counter(model.backbone)
    with Stopwatch() as watch:
        for number, step in enumerate(plan):
            trees = [rows[i].tree for i in step.trees]
            sums = plain(model, BradleyTerry(), loop.batches(model, trees, SETTINGS))
            now = rate * schedules.factor(number, len(plan), SETTINGS)
            norm = loop.update(list(parameters.values()), optimizer, sums, now, SETTINGS.max_grad_norm)
            assert norm is not None, "a step was not finite"
    sample = Sample(watch.cpu, watch.wall, counter.stop())
    model.eval()
    model.bf16 = False
    return Trained(sample, lambda others: gaps_of(model, others))


@torch.no_grad()
def gaps_of(model: RewardModel, rows: Sequence[Row]) -> Gaps:
    """Gaps of a reward model of holdtrue."""
    rewards = [given(model(model.batch([row.tree])).rewards) for row in rows]
    sides = [(row.tree.first[0], row.tree.second[0]) for row in rows]
    return np.array([float(own[i] - own[j]) for own, (i, j) in zip(rewards, sides, strict=True)])


def train_trl(case: Case, rows: Sequence[Row], rate: float, seed: int) -> Trained:
    """An epoch with TRL's RewardTrainer, from the weights that holdtrue starts from."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, PrinterCallback
    from trl import RewardConfig, RewardTrainer

    from peers import Timer

    ours = case.load(seed)
    pad = ours.tokenizer.pad_token_id
    model = AutoModelForSequenceClassification.from_pretrained(case.folder, num_labels=1, pad_token_id=pad)
    model.load_state_dict(ours.model.classifier.state_dict())
    require_equal(gaps_of(ours.model, rows[:4]), gaps_of_classifier(model, rows[:4]))
    ids = [row.ids for row in grouped(rows, seed)]
    timer, counter = Timer(), Counter(model.base_model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                **common(folder, case, rate, seed),
                train_sampling_strategy="sequential",
                gradient_checkpointing=False,
                max_length=None,
            ),
            train_dataset=Dataset.from_dict(
                {"chosen_ids": [c for c, _ in ids], "rejected_ids": [r for _, r in ids]}
            ),
            processing_class=ours.tokenizer,
            callbacks=[timer],
        )
        trainer.remove_callback(PrinterCallback)
        assert len(trainer.train_dataset) == len(rows), "TRL dropped rows"
        trainer.train()
    sample = Sample(timer.watch.cpu, timer.watch.wall, counter.stop())
    model.eval()
    return Trained(sample, lambda others: gaps_of_classifier(model, others))


@torch.no_grad()
def gaps_of_classifier(model: Any, rows: Sequence[Row]) -> Gaps:
    """Gaps of a sequence classifier of transformers."""
    rewards = [[float(model(torch.tensor([ids])).logits) for ids in row.ids] for row in rows]
    return np.array([first - second for first, second in rewards])


def require_equal(ours: Gaps, theirs: Gaps) -> None:
    """Refuse to compare what does not start from the same rewards."""
    if (error := float(np.abs(ours - theirs).max())) > 1e-4:
        raise SystemExit(f"before training, gaps of holdtrue and TRL differ by {error:.1e}")


def train_cross_encoder(case: Case, rows: Sequence[Row], rate: float, seed: int) -> Trained:
    """An epoch with sentence-transformers' CrossEncoderTrainer."""
    from datasets import Dataset
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import RankNetLoss
    from transformers import PrinterCallback

    from peers import Timer

    torch.manual_seed(seed)
    model = CrossEncoder(case.folder, num_labels=1, device="cpu")
    for row in rows[:8]:
        prompt, first, second = row.texts
        read = model.tokenizer([prompt, prompt], [first, second])["input_ids"]
        assert read == list(row.ids), "the CrossEncoder reads other tokens than holdtrue"
    texts = [row.texts for row in grouped(rows, seed)]
    timer, counter = Timer(), Counter(model[0].auto_model.base_model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(
                **common(folder, case, rate, seed),
                batch_sampler=lambda data, **options: DefaultBatchSampler(SequentialSampler(data), **options),
            ),
            train_dataset=Dataset.from_dict(
                {
                    "query": [prompt for prompt, _, _ in texts],
                    "docs": [[first, second] for _, first, second in texts],
                    "labels": [[1, 0]] * len(texts),
                }
            ),
            loss=RankNetLoss(model, reduction_log="natural"),
            callbacks=[timer],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    sample = Sample(timer.watch.cpu, timer.watch.wall, counter.stop())
    model.eval()

    def gaps(others: Sequence[Row]) -> Gaps:
        pairs = [(row.texts[0], answer) for row in others for answer in row.texts[1:]]
        rewards = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        return np.asarray(rewards, dtype=np.float64).reshape(-1, 2) @ [1, -1]

    return Trained(sample, gaps)


def common(folder: str, case: Case, rate: float, seed: int) -> dict[str, Any]:
    """What both peers' trainers are told, so that they train as holdtrue does."""
    return {
        "output_dir": folder,
        "num_train_epochs": 1,
        "per_device_train_batch_size": PAIRS_PER_STEP,
        "learning_rate": rate,
        "lr_scheduler_type": SETTINGS.lr_scheduler_type,
        "warmup_steps": SETTINGS.warmup_ratio,
        "weight_decay": SETTINGS.weight_decay,
        "adam_beta1": SETTINGS.adam_beta1,
        "adam_beta2": SETTINGS.adam_beta2,
        "max_grad_norm": SETTINGS.max_grad_norm,
        "bf16": case.bf16,
        "seed": seed,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def grouped(rows: Sequence[Row], seed: int) -> list[Row]:
    """Batches of pairs of like length, in random order, a smaller one last."""
    rng = np.random.default_rng(seed)
    order_of = sorted(rng.permutation(len(rows)).tolist(), key=lambda i: -rows[i].tree.longest)
    whole = len(rows) // PAIRS_PER_STEP * PAIRS_PER_STEP
    batches = np.array(order_of[:whole]).reshape(-1, PAIRS_PER_STEP)
    return [rows[i] for i in [*rng.permutation(batches).flatten().tolist(), *order_of[whole:]]]


def choose_rate(system: System, case: Case, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
    """The learning rate with the least log loss on the held-out rows, and the losses of all."""
    held_out, others = rows[: case.held_out], rows[case.held_out :]
    losses = {
        rate: float(np.logaddexp(0, -system(case, others, rate, 0).gaps(held_out)).mean())
        for rate in case.rates
    }
    return min(losses, key=lambda rate: losses[rate]), {f"{rate:g}": loss for rate, loss in losses.items()}


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """One case: both choose their rate, then train in turn, a seed a round."""
    systems: dict[str, System] = {
        OURS: train_holdtrue,
        case.peer: {"TRL": train_trl, "CrossEncoder": train_cross_encoder}[case.peer],
    }
    rows, test = usable(case, "train")[: case.train], usable(case, "test")
    chosen = {name: choose_rate(system, case, rows) for name, system in systems.items()}
    print(f"{case.name}: learning rates chosen", file=sys.stderr, flush=True)
    runs: dict[str, list[Sample]] = {name: [] for name in systems}
    scores: dict[str, list[Gaps]] = {name: [] for name in systems}
    for seed in range(rounds):
        for name, system in systems.items():
            trained = system(case, rows, chosen[name][0], seed)
            runs[name].append(trained.sample)
            scores[name].append((1 + np.sign(trained.gaps(test))) / 2)
    difference = np.stack(scores[OURS]) - np.stack(scores[case.peer])
    longer = [np.sign(len(first) - len(second)) for _, first, second in (row.texts for row in test)]
    return {
        "case": case.name,
        "train": len(rows),
        "test": len(test),
        "unique_tokens": sum(row.tree.tokens for row in rows),
        "full_tokens": sum(row.tree.real_tokens for row in rows),
        "longer_answer": mean((1 + longer_one) / 2 for longer_one in longer),
        "difference": float(difference.mean()),
        "interval": interval(difference, np.arange(len(test)), 0.95),
        "ratio": ratio(runs[case.peer], runs[OURS]),
        "systems": {
            name: {
                "rate": chosen[name][0],
                "held_out_loss": chosen[name][1],
                "accuracy": float(np.mean(scores[name])),
                "accuracies": [float(of_seed.mean()) for of_seed in scores[name]],
                "seconds": middle(runs[name]),
                "tokens": median(sample.padded_tokens or 0 for sample in runs[name]),
                "runs": runs[name],
            }
            for name in systems
        },
    }


def cases(quick: bool) -> dict[str, Callable[[], Case]]:
    """By name; made when asked for, as the encoder is in a package of its own."""
    decoder = str(SHARED / "models" / "stories260K")
    sizes = ((24, 8), (24, 8)) if quick else ((600, 120), (300, 60))
    longest = (200, 64) if quick else (512, 160)
    return {
        "decoder": lambda: Case(
            "decoder", decoder, "TRL", longest[0], *sizes[0], (2e-4, 6.25e-4, 2e-3), bf16=False
        ),
        "encoder": lambda: Case(
            "encoder", encoder_folder(), "CrossEncoder", longest[1], *sizes[1], (3e-5, 1e-4, 3e-4), bf16=True
        ),
    }


def table(results: Sequence[dict[str, Any]]) -> None:
    """Print all cases."""
    lines = []
    for result in results:
        low, high = result["interval"] or (float("nan"), float("nan"))
        for name, system in result["systems"].items():
            lines.append(
                {
                    "case": result["case"],
                    "system": name,
                    "pairs": result["train"],
                    "rate": f"{system['rate']:g}",
                    "test": result["test"],
                    "accuracy": f"{system['accuracy']:.3f}",
                    "of seeds": " ".join(f"{value:.3f}" for value in system["accuracies"]),
                    "ahead": f"{result['difference']:+.3f} [{low:+.3f}, {high:+.3f}]" if name == OURS else "",
                    "seconds": system["seconds"],
                    "ratio": 1.0 if name == OURS else result["ratio"],
                    "tokens": system["tokens"],
                }
            )
    show("Head to head, CPU seconds of training", lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few short pairs, no claim")
    parser.add_argument("--only", nargs="*", choices=["decoder", "encoder"], help="cases (default: both)")
    parser.add_argument("--rounds", type=int, default=3, help="seeds")
    parser.add_argument("--output", help="JSON file for the raw numbers")
    options = parser.parse_args()
    made, results = cases(options.quick), []
    for name in options.only or made:
        results.append(measure(made[name](), options.rounds))
        write(options.output, {"machine": machine(), "head_to_head": results})
        print(f"{name}: done", file=sys.stderr, flush=True)
    table(results)


if __name__ == "__main__":
    main()
