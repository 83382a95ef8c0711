"""Three rounds on real text: a story model, a reward model over its own stories, the guard on and off.

python benchmarks/stories.py --model path/to/stories260K [--output DIR] [--rounds 3] [--steps 20] [--seed 0]

Raters like stories with kind words that come to an end and do not say the same sentence twice; a tenth of the
labels is wrong. The reward model is trained on 600 pairs of the model's own stories, the policy is optimised
against it in rounds, and every round's stories are read by the doctor. The arm ``off`` is rewarded for what
the reward model says alone; ``guard`` ends stories that loop, leaves them out of learning and gives stories
without an end a fixed low reward. Interrupted runs go on with the same command.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from holdtrue.records import Group
from holdtrue.refresh.answers import together
from holdtrue.refresh.labels import by_reward
from holdtrue.rounds import run as engine
from holdtrue.rounds.drawing import Desk
from holdtrue.rounds.settings import build
from holdtrue.rundir import RunDir, write_jsonl

KIND = re.compile(
    r"\b(happy|smiled|love[ds]?|kind|friends?|thank|hugged|laughed|share[ds]?|fun|proud)\b", re.I
)
OPENINGS = ("Once upon a time, there was a", "One day, a", "There was a")
WHO = (
    "little girl",
    "boy",
    "big dog",
    "cat",
    "bird",
    "brave bear",
    "small fish",
    "princess",
    "rabbit",
    "old man",
)
NAMED = (
    " named Lily.",
    " named Tom.",
    " who liked to play.",
    " in the forest.",
    " with a red ball.",
    " near the sea.",
)
NOISE = 2.2
"""Of the raters: about a tenth of the labels of two stories is wrong."""


def liking(prompt: str, story: str) -> float:
    """What raters like: kind words (up to 6), each sentence said once, an end."""
    sentences = [s.strip().lower() for s in re.split(r"[.!?]", story) if s.strip()]
    said_again = len(sentences) - len(set(sentences))
    ended = story.rstrip().endswith((".", "!", '"'))
    return 0.5 * min(len(KIND.findall(story)), 6) - 1.0 * min(said_again, 4) + 1.0 * ended


def settings(model: Path, place: Path, guard: bool, rounds: int, steps: int, seed: int) -> dict[str, Any]:
    """Plain settings of the rounds of an arm."""
    return {
        "reward": {
            "model": {"path": str(model)},
            "data": {"train": [str(place / "pairs.jsonl")], "plain_text": "raw"},
            "training": {"num_train_epochs": 2},
            "seed": seed,
        },
        "rl": {
            "policy": {"path": str(model)},
            "data": {"prompts": [str(place / "prompts.jsonl")], "plain_text": "raw"},
            "algorithm": {"kind": "rloo", "kl_coef": 0.05},
            "decoding": {"max_new_tokens": 160, "control": "keep"}
            | ({"control": "ban"} if guard else {"loop": None}),
            "guard": {"on_hit": "exclude", "no_end_reward": -1.0} if guard else {"on_hit": "none"},
            "training": {
                "max_steps": steps,
                "prompts_per_step": 8,
                "group": 8,
                "learning_rate": 2e-4,
                "rows_per_pass": 64,
            },
        },
        "rounds": rounds,
        "refresh": "fresh_labels",
        "answers": {"prompts": 64, "group": 3},
        "labels": {"budget": 100, "accuracy": 60},
        "seed": seed,
    }


def write_data(model: Path, place: Path, seed: int) -> None:
    """Prompts, and pairs of the model's own stories as fallible raters order them."""
    place.mkdir(parents=True, exist_ok=True)
    prompts = [f"{a} {b}{c}" for a, b, c in product(OPENINGS, WHO, NAMED)]
    write_jsonl(place / "prompts.jsonl", ({"prompt": text} for text in prompts))
    made = settings(model, place, True, 1, 1, seed)
    made["reward"]["data"]["train"] = [str(place / "prompts.jsonl")]  # the pairs are not there yet
    desk = Desk(build(made).rl)
    groups: list[Group] = []
    for draw in range(4):
        groups += together(desk.draw(None, desk.prompts, 2, seed + draw, "reference"), "raw")
    groups = [group for group in groups if group.answers[0].text != group.answers[1].text]
    rows = []
    for group, said in zip(groups, by_reward(liking, NOISE, seed)(groups), strict=True):
        if said is not None and said.preferred is not None:
            better, worse = (group.answers[i].text for i in said.preferred)
            rows.append({"prompt": group.prompt, "chosen": better, "rejected": worse})
    Random(seed).shuffle(rows)
    write_jsonl(place / "pairs.jsonl", rows[:600])


def main() -> None:
    """Run both arms and print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/stories"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    place = given.output / "data"
    if not (place / "pairs.jsonl").is_file():
        write_data(given.model, place, given.seed)
    print("| arm | round | KL | reward | liking | accuracy, refreshed | degenerate | min |")
    print("|---|---|---|---|---|---|---|---|")
    for arm, guard in (("off", False), ("guard", True)):
        run = RunDir(given.output / arm)
        if not run.settings_file.is_file():
            values = settings(given.model, place, guard, given.rounds, given.steps, given.seed)
            run = engine.start(build(values), run.path, labelled=True)
        started = time.perf_counter()
        rows = engine.carry(run, labeller=by_reward(liking, NOISE, given.seed), judge=by_reward(liking))
        first = _liked(run.path / "reference.jsonl")
        print(f"| {arm} | 0 | 0 | | {first:.2f} | | | |")
        for row in rows:
            health, after, number = row["health"], row["after"], row["round"]
            print(
                f"| {arm} | {number} | {row['before']['kl']:.1f} | {row['reward']['to']:.2f} | "
                f"{_liked(run.path / f'round-{number}' / 'answers.jsonl'):.2f} | "
                f"{after['accuracy']:.2f} [{after['low']:.2f}, {after['high']:.2f}] | "
                f"{health['rate']:.1%} [{health['low']:.1%}, {health['high']:.1%}] | "
                f"{row['seconds'] / 60:.1f} |"
            )
        print(f"{arm}: {(time.perf_counter() - started) / 60:.1f} min now, report {run.path / 'report.html'}")


def _liked(file: Path) -> float:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return sum(liking(row["prompt"], row["answer"]) for row in rows) / len(rows)


if __name__ == "__main__":
    main()
