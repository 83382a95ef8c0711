"""Tokenising preference pairs: holdtrue's Encoder and trees against TRL's preprocessing.

    python benchmarks/tokenising.py [--quick] [--pairs 100000] [--rounds 3] [--output tokenising.json]

Real HH pairs, repeated with a number in the first turn so that no two prompts are equal. holdtrue:
rendering, encoding, common prefixes, trees. TRL: the method of RewardTrainer that maps its data set
(template and tokenizer per example, then its length filter), without progress bars or cache files.
With a template that has special tokens (ChatML) and, on a fifth of the pairs, with holdtrue's plain
default, which has none: there no place in the text is known to be exact to cut at, so prompts are not shared.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from typing import Any

from measurement import Sample, Stopwatch, alternate, machine, middle, ratio, show, write

# isort: split
import datasets
from trl import RewardConfig, RewardTrainer

import peers  # noqa: F401  quiets datasets and switches its cache off
from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.tokens.conversation import PLAIN_TEMPLATE, Encoder
from holdtrue.tokens.tree import Tree
from holdtrue.training.preparation import prepare
from workloads import hh_rows, tokenizer


def pairs(count: int) -> list[dict[str, Any]]:
    """Rows with explicit prompts."""
    source = hh_rows()
    made = []
    for number in range(count):
        row = source[number % len(source)]
        first, *rest = row["prompt"]
        numbered = {"role": first["role"], "content": f"{first['content']} ({number})"}
        made.append({"prompt": [numbered, *rest], "chosen": row["chosen"], "rejected": row["rejected"]})
    return made


def groups_of(rows: list[dict[str, Any]]) -> list[Group]:
    """The rows as holdtrue's reader yields them."""

    def messages(turns: list[dict[str, str]]) -> tuple[Message, ...]:
        return tuple(Message(turn["role"], turn["content"]) for turn in turns)

    return [
        Group(
            messages(row["prompt"]),
            (Answer(messages(row["chosen"])), Answer(messages(row["rejected"]))),
            (Comparison(0, 1),),
        )
        for row in rows
    ]


class Holdtrue:
    """Rows to trees."""

    def __init__(self, rows: list[dict[str, Any]], made: Any) -> None:
        self.groups = groups_of(rows)
        self.tokenizer = made

    def trees(self) -> list[Tree]:
        """All trees."""
        return prepare(self.groups, Encoder(self.tokenizer, 10**6), 8, "train").trees

    def run(self, seed: int) -> Sample:
        """Tokenise everything once."""
        with Stopwatch() as watch:
            self.trees()
        return Sample(watch.cpu, watch.wall)


class Trl:
    """Rows to TRL's data set of token ids."""

    def __init__(self, rows: list[dict[str, Any]], made: Any) -> None:
        self.data = datasets.Dataset.from_list(rows)
        self.tokenizer = made
        self.arguments = RewardConfig(output_dir=tempfile.gettempdir(), use_cpu=True, max_length=None)

    def dataset(self) -> Any:
        """The processed data set."""
        return RewardTrainer._prepare_dataset(None, self.data, self.tokenizer, self.arguments, "train")

    def run(self, seed: int) -> Sample:
        """Tokenise everything once."""
        with Stopwatch() as watch:
            self.dataset()
        return Sample(watch.cpu, watch.wall)


def check_agreement(rows: list[dict[str, Any]], made: Any) -> None:
    """The same ids from both, pair by pair (TRL keeps identical sides, holdtrue does not)."""
    ours = {
        (*tree.prompt.tolist(), *answer.tolist())
        for tree in Holdtrue(rows, made).trees()
        for answer in tree.answers
    }
    theirs = {
        tuple(row[side])
        for row in Trl(rows, made).dataset()
        for side in ("chosen_ids", "rejected_ids")
        if row["chosen_ids"] != row["rejected_ids"]
    }
    if ours != theirs:
        raise SystemExit(f"{len(ours ^ theirs)} of {len(theirs)} sequences differ between holdtrue and TRL")


def measure(template: str, count: int, rounds: int) -> dict[str, Any]:
    """One template."""
    made = copy.deepcopy(tokenizer())
    if template == "plain":
        made.chat_template = PLAIN_TEMPLATE
    rows = pairs(count)
    check_agreement(rows[: min(count, len(hh_rows()))], made)
    systems = {"holdtrue": Holdtrue(rows, made), "TRL": Trl(rows, made)}
    samples = alternate({name: system.run for name, system in systems.items()}, rounds)
    ours = samples["holdtrue"]
    return {
        "template": template,
        "pairs": count,
        "systems": {
            name: {
                "seconds": middle(runs),
                "wall": middle(runs, "wall"),
                "ratio": ratio(runs, ours),
                "wall_ratio": ratio(runs, ours, "wall"),
                "runs": runs,
            }
            for name, runs in samples.items()
        },
    }


def table(results: list[dict[str, Any]]) -> None:
    """Print all templates."""
    lines = [
        {
            "template": result["template"],
            "system": name,
            "pairs": result["pairs"],
            "CPU s": system["seconds"],
            "wall s": system["wall"],
            "pairs/CPU s": round(result["pairs"] / system["seconds"]),
            "x holdtrue, CPU": system["ratio"],
            "x holdtrue, wall": system["wall_ratio"],
        }
        for result in results
        for name, system in result["systems"].items()
    ]
    show("Tokenising pairs, medians", lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most 2,000 pairs")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="JSON file for the raw numbers")
    options = parser.parse_args()
    count = min(2000, options.pairs) if options.quick else options.pairs
    results = []
    for template, share in (("chatml", 1), ("plain", 5)):
        results.append(measure(template, count // share, options.rounds))
        write(options.output, {"machine": machine(), "tokenising": results})
    table(results)


if __name__ == "__main__":
    main()
