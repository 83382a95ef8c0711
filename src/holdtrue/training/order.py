"""The order of examples: which trees make up each optimiser step, as a pure function of seed and settings.

A resumed run computes the same order again, so nothing about it has to be saved. Steps are counted in
comparisons: a step takes trees in shuffled order until it holds at least as many as asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from holdtrue.settings import TrainingSettings


@dataclass(frozen=True)
class Step:
    """Trees of one optimiser step, and how far through the data it ends (in epochs)."""

    trees: tuple[int, ...]
    epoch: float


def steps(counts: Sequence[int], settings: TrainingSettings, world_size: int, seed: int) -> list[Step]:
    """All steps of a run; ``counts`` are the trees' numbers of comparisons."""
    wanted = settings.comparisons_per_step(world_size)
    total = sum(counts)
    limit = settings.max_steps if settings.max_steps > 0 else None
    made: list[Step] = []
    for epoch, order in _epochs(len(counts), seed):
        seen = 0
        for trees in portions(order, counts, wanted):
            seen += sum(counts[tree] for tree in trees)
            made.append(Step(tuple(trees), epoch + seen / total))
            if limit is not None and len(made) == limit:
                return made
            if limit is None and made[-1].epoch >= settings.num_train_epochs - 1e-9:
                return made
    raise AssertionError("unreachable: epochs never end")


def portions(order: Iterable[int], counts: Sequence[int], wanted: int) -> Iterator[list[int]]:
    """Trees in this order, as many at a time as hold what is wanted; the last ones may hold less."""
    held, pending = 0, []
    for tree in order:
        pending.append(int(tree))
        held += counts[tree]
        if held >= wanted:
            yield pending
            held, pending = 0, []
    if pending:
        yield pending


def _epochs(trees: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    epoch = 0
    while True:
        yield epoch, np.random.default_rng([seed, epoch]).permutation(trees)
        epoch += 1
