"""What tests of refreshes share: noisy pairs of the support desk, and a refresh in a world of processes.

Run as a script by torchrun: ``refreshing.py BASE_MODEL FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.refresh.context import RefreshContext
from holdtrue.refresh.methods import named
from holdtrue.reward import store
from holdtrue.reward.scorer import RewardScorer
from holdtrue.settings import ModelSettings, build
from holdtrue.training.distributed import World, join
from holdtrue.worlds.support import SupportWorld

DESK = SupportWorld()
METHODS = ({"kind": "metarm", "order": "second", "prompts": 3}, {"kind": "joint", "prompts": 3})


def pairs(count: int, seed: int = 0) -> list[Group]:
    """Preferences of a fallible rater."""

    def answer(text: str) -> Answer:
        return Answer((Message("assistant", text),))

    return [
        Group((Message("user", one.prompt),), (answer(one.chosen), answer(one.rejected)), (Comparison(0, 1),))
        for one in DESK.preferences(count, Random(seed))
    ]


def refresh_in(world: World | None, base: Path, folder: Path) -> None:
    """Both gradient steps, in several passes each, into a folder for each method."""
    training = {"max_steps": 4, "bf16": False, "train_batch_size": 8, "max_tokens_per_pass": 200}
    for method in METHODS:
        context = RefreshContext(
            settings=build({"model": {"path": str(base)}, "training": training}),
            current=RewardScorer(store.load(ModelSettings(path=str(base)), seed=5)),
            pairs=pairs(20),
            folder=folder / str(method["kind"]),
            shifted=DESK.groups(6, 3, Random(7)),
            world=world,
        )
        named(method)(context)


if __name__ == "__main__":
    with join(2, "data") as both:
        refresh_in(both, *map(Path, sys.argv[1:]))
