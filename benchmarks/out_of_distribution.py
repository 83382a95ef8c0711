"""A reward model trained on A, refreshed with answers of B without their labels, judged by B's labels.

    python benchmarks/out_of_distribution.py --encoder FOLDER [--seeds 3] [--arms ARM ...] [--write PAGE]

Real pairs of one goal or source (A) train a reward model; a refresh sees prompts and answers of another (B),
in an order that says nothing. Only ``fresh_labels`` may buy some of B's labels. ``labelled`` is the ceiling:
the same training on as many labelled pairs of B.

Primary, fixed before anything ran: for each direction and method, pair accuracy on B's test file less that of
``retrain`` (the same pairs of A, a new head and order), paired by test pair and seed, with a 95 % interval
for other prompts and other seeds (pigeonhole bootstrap). Secondary: the same on A's test file, which is what
is lost. Intervals are not widened for the number of methods.

A seed draws the pairs, the head and the order; the test pairs are the same for all. ``importance`` is left
out: it weighs pairs by log-ratios of the policies that wrote them, which are not known. So that a run takes
minutes on a busy core, texts are cut at the left to 128 tokens and only the lowest layers of the encoder are
used. Each finished run is a line of ``runs.jsonl``; the command goes on where it was stopped. Data is read
from ``$HOLDTRUE_SHARED/data`` (default: ``shared`` beside the repository).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.data.splits import read_groups
from holdtrue.errors import HoldtrueError
from holdtrue.evaluation.accuracy import score
from holdtrue.evaluation.paired import interval
from holdtrue.evaluation.pairs import Ints, Pairs, collect, finite
from holdtrue.records import Group
from holdtrue.refresh.context import RefreshContext, rewards
from holdtrue.refresh.labels import recorded
from holdtrue.refresh.methods import named
from holdtrue.reward import store
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.reward.scorer import RewardScorer
from holdtrue.rundir import append_jsonl, read_jsonl
from holdtrue.settings import DataSettings, Settings, build

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HOLDTRUE_SHARED", ROOT.parent / "shared")) / "data"
DIRECTIONS = {
    "rmb harmless to helpful": ("rmb_pairs/harmless.{}", "rmb_pairs/helpful.{}"),
    "rmb helpful to harmless": ("rmb_pairs/helpful.{}", "rmb_pairs/harmless.{}"),
    "hh harmless to helpful": ("hh_harmless/{}", "hh_helpful_ai_pairs/{}"),
}
"""A and B of each."""
CONTROL, CEILING = "retrain", "labelled"
ARMS: dict[str, Any] = {
    CONTROL: "retrain",
    "none": "none",
    "metarm": "metarm",
    "fresh_labels": "fresh_labels",
    CEILING: "retrain",
    "self_train": {"kind": "self_train", "threshold": 0.6},  # after so short a training few pairs are surer
    "joint": "joint",
    "ensemble": {"kind": "ensemble", "members": 3, "combine": "mean"},  # the worst case is for policies
    "adversarial": "adversarial",
    "weight_average": {"kind": "weight_average", "members": 3},
}
"""In the order they run, so that what is cheap and asked about most is there first."""
FIRST = 1000
"""Added to the seed of the model that is refreshed, so that ``retrain`` makes another one."""
MARKS = re.compile(r"(<!-- out of distribution -->\n).*?(<!-- end of out of distribution -->)", re.S)
Row = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """What all runs share. Runs of other values are not put into one table.

    Attributes:
        encoder: folder of a sentence encoder, of which the lowest ``layers`` are used.
        train, shifted: pairs of A to train on and of B to see; ``labels``: how many of these may be bought.
        other, own: test pairs of B and of A.
    """

    encoder: str
    layers: int = 1
    train: int = 240
    shifted: int = 200
    labels: int = 60
    other: int = 240
    own: int = 120

    def tests(self, direction: str) -> dict[str, list[Group]]:
        """Test pairs of B (``other``) and of A (``own``)."""
        a, b = DIRECTIONS[direction]
        return {
            "other": spread_out(read(b, "test"), self.other, 0),
            "own": spread_out(read(a, "test"), self.own, 0),
        }


QUICK = {"train": 12, "shifted": 8, "labels": 4, "other": 12, "own": 12}


def settings(encoder: Path, seed: int) -> Settings:
    """One pass; rate and batch are those that held-out training pairs of rmb harmless liked."""
    return build(
        {
            "model": {"path": str(encoder), "kind": "scalar"},
            "data": {"max_length": 128, "truncation": "left"},
            "training": {
                "num_train_epochs": 1,
                "train_batch_size": 8,
                "learning_rate": 3e-4,
                "save_steps": 10_000,  # a run takes less time than its checkpoints would
            },
            "seed": seed,
        }
    )


@cache
def read(file: str, split: str) -> list[Group]:
    """All pairs of a file below the data folder."""
    return read_groups([str(DATA / f"{file.format(split)}.jsonl.gz")], DataSettings(), None)[0]


def spread_out(groups: Sequence[Group], count: int, seed: int) -> list[Group]:
    """``count`` groups in random order; no prompt has its second before every prompt has its first."""
    shuffled = Random(seed).sample(groups, len(groups))
    seen: Counter[str] = Counter()
    turns = []
    for place, group in enumerate(shuffled):
        turns.append((seen[group.prompt_key], place))
        seen[group.prompt_key] += 1
    return [shuffled[place] for _, place in sorted(turns)[:count]]


def unlabelled(group: Group) -> Group:
    """The prompt and its answers, in an order that does not depend on which is better."""
    answers = sorted(group.answers, key=lambda answer: answer.text)
    Random("".join(answer.text for answer in answers)).shuffle(answers)
    return Group(group.prompt, tuple(answers))


def lowest_layers(encoder: Path, layers: int, folder: Path) -> Path:
    """A copy of the encoder that ends after its first layers."""
    from transformers import AutoConfig, AutoModel

    if not (encoder / "config.json").is_file():
        raise SystemExit(f"{encoder} is no folder of an encoder: it has no config.json")
    most = AutoConfig.from_pretrained(encoder).num_hidden_layers
    if not 1 <= layers <= most:
        raise SystemExit(f"{encoder} has {most} layers, asked for the lowest {layers}")
    if not (folder / "model.safetensors").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(encoder, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
        with quiet_loading():
            AutoModel.from_pretrained(encoder, num_hidden_layers=layers).save_pretrained(folder)
    return folder


def measure(experiment: Experiment, encoder: Path, place: Path, direction: str, arm: str, seed: int) -> Row:
    """Refresh by one method from one seed: the scores of its model on both tests, and its report."""
    a, b = (read(file, "train") for file in DIRECTIONS[direction])
    before = settings(encoder, seed + FIRST)
    first = RefreshContext(
        settings=before,
        current=RewardScorer(store.load(before.model, seed=before.seed)),
        pairs=spread_out(a, experiment.train, seed),
        folder=place / "first",
        seed=before.seed,
    )
    method = named(ARMS[arm])
    context = replace(
        first,
        settings=settings(encoder, seed),
        current=named("retrain")(first)[0],
        pairs=spread_out(b, experiment.train, seed) if arm == CEILING else first.pairs,
        folder=place / arm,
        seed=seed,
        shifted=[unlabelled(group) for group in spread_out(b, experiment.shifted, seed)],
        labeller=recorded(b) if "labels" in method.needs else None,
        budget=experiment.labels,
    )
    scorer, report = method(context)
    row = {"direction": direction, "arm": arm, "seed": seed, "made_of": asdict(experiment)}
    for name, groups in experiment.tests(direction).items():
        row[name] = score(columns(groups, rewards(scorer, groups)).gap).tolist()
    shutil.rmtree(context.folder, ignore_errors=True)  # some 50 MB a model
    return row | {"report": report.as_json()}


def columns(groups: Sequence[Group], found: Sequence[NDArray[np.floating]]) -> Pairs:
    """The decided comparisons with these rewards."""
    lengths: list[Ints] = [np.array([len(a.text) for a in group.answers], np.int64) for group in groups]
    pairs = collect(groups, finite(found), lengths)
    if pairs.unscored:
        raise SystemExit(f"{pairs.unscored} of {len(pairs) + pairs.unscored} test pairs cannot be read")
    return pairs.take(pairs.decided)


def finished(file: Path, experiment: Experiment) -> list[Row]:
    """Runs that were made before."""
    rows = list(read_jsonl(file)) if file.is_file() else []
    for row in rows:
        if row["made_of"] != asdict(experiment):
            raise SystemExit(
                f"{file} holds runs of {row['made_of']}, asked for {experiment}: another --output"
            )
    return rows


def table(rows: Sequence[Row], experiment: Experiment) -> str:
    """Accuracy on B and on A and what each arm has over the control, as Markdown."""
    heads = ("A to B", "arm", "seeds", "accuracy on B", "less `retrain` (primary)", "accuracy on A")
    lines = ["| " + " | ".join([*heads, "less `retrain`"]) + " |", "|---" * 7 + "|"]
    for direction in DIRECTIONS:
        found: dict[str, dict[int, Row]] = {arm: {} for arm in ARMS}
        for row in rows:
            if row["direction"] == direction:
                found[row["arm"]][row["seed"]] = row
        if any(found.values()):
            lines += ["| " + " | ".join(cells) + " |" for cells in _cells(direction, found, experiment)]
    return "\n".join(lines) + "\n"


def _cells(
    direction: str, found: Mapping[str, Mapping[int, Row]], experiment: Experiment
) -> Iterator[list[str]]:
    tests = {
        name: columns(groups, [np.zeros(len(group.answers)) for group in groups])
        for name, groups in experiment.tests(direction).items()
    }
    rules = [f"{score(pairs.length_gap.astype(np.float64)).mean():.3f}" for pairs in tests.values()]
    yield [direction, "longer answer", "", rules[0], "", rules[1], ""]
    for arm, own in found.items():
        if own:
            cells = [direction, arm, str(len(own))]
            for name, pairs in tests.items():
                cells.append(f"{np.mean([row[name] for row in own.values()]):.3f}")
                cells.append("" if arm == CONTROL else against(own, found[CONTROL], name, pairs.prompt))
            yield cells


def against(own: Mapping[int, Row], control: Mapping[int, Row], name: str, prompt: Ints) -> str:
    """Mean paired difference over the seeds that both have, with its interval."""
    both = sorted(own.keys() & control.keys())
    if not both:
        return "–"
    difference = np.array([own[s][name] for s in both]) - np.array([control[s][name] for s in both])
    found = interval(difference, prompt, 0.95)
    return f"{difference.mean():+.3f}" + (f" [{found[0]:+.3f}, {found[1]:+.3f}]" if found else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, required=True, help="folder of a sentence encoder")
    parser.add_argument(
        "--layers", type=int, default=Experiment.layers, help="of the encoder, from the lowest"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--only", default="", help="directions whose name holds this text")
    parser.add_argument("--quick", action="store_true", help="a few pairs, no claim")
    parser.add_argument("--output", type=Path, default=Path("runs/out_of_distribution"))
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    chosen = [direction for direction in DIRECTIONS if options.only in direction]
    if options.seeds < 1:
        parser.error(f"--seeds must be 1 or more, got {options.seeds}")
    if not chosen:
        parser.error(f"--only {options.only}: no direction is called so; there are {', '.join(DIRECTIONS)}")
    sizes = QUICK if options.quick else {}
    experiment = Experiment(str(options.encoder.resolve()), options.layers, **sizes)
    file = options.output / "runs.jsonl"
    rows = finished(file, experiment)
    done = {(row["arm"], row["seed"], row["direction"]) for row in rows}
    encoder = lowest_layers(options.encoder, options.layers, options.output / f"encoder-{options.layers}")
    arms = [arm for arm in ARMS if arm in options.arms]
    for arm, seed, direction in product(arms, range(options.seeds), chosen):
        if (arm, seed, direction) not in done:
            place = options.output / direction.replace(" ", "-") / str(seed)
            try:
                rows.append(measure(experiment, encoder, place, direction, arm, seed))
            except HoldtrueError as error:
                raise SystemExit(f"{direction}, {arm}, seed {seed}: {error}") from error
            append_jsonl(file, rows[-1:])
            print(f"{direction}, {arm}, seed {seed}: done", file=sys.stderr, flush=True)
    text = table(rows, experiment)
    print(text)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(MARKS.sub(lambda m: m[1] + text + m[2], page), encoding="utf-8")


if __name__ == "__main__":
    main()
