"""The meta set: answers of the current policy, a prompt's in one token tree, and J's gradient on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from holdtrue.errors import DataError, SettingsError
from holdtrue.losses import given
from holdtrue.records import Group
from holdtrue.refresh.difference import differences
from holdtrue.reward.model import RewardModel
from holdtrue.settings import TrainingSettings
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.joint import JointEncoder
from holdtrue.tokens.tree import Tree, grow
from holdtrue.training import loop
from holdtrue.training.coupled import random_state, restore_random_state
from holdtrue.training.distributed import World


def plant(
    groups: Sequence[Group], encoder: Encoder | JointEncoder, answers: int
) -> tuple[list[Tree], Counter[str]]:
    """One tree for each prompt with its first ``answers`` answers, and what was left out.

    Equal answers stay leaves of their own: J counts them.

    Raises:
        SettingsError: the model compares answers. DataError: no prompt has two answers that can be read.
    """
    if not isinstance(encoder, Encoder):
        raise SettingsError("J is made of rewards of single answers; this kind of model compares them")
    trees, left_out = [], Counter[str]()
    for group, encoded in zip(groups, encoder.encode(groups), strict=True):
        left_out += Counter(reason for reason in encoded.reasons if reason)
        read = [(ids, encoded.marks[k : k + 1]) for k, ids in enumerate(encoded.ids) if ids is not None]
        if len(read) < 2:
            left_out["prompts with fewer than two answers"] += 1
            continue
        ids, marks = zip(*read[:answers], strict=True)
        trees.append(grow(ids, marks=[one for own in marks for one in own], key=group.prompt_key))
    if not trees:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(3))
        raise DataError(f"no prompt of the shifted answers has two that can be read: {reasons}")
    return trees, left_out


@dataclass
class Samples:
    """The meta set, drawn from step by step.

    Attributes:
        trees: one for each prompt.
        prompts: how many make a step's meta batch.
        step: how many were drawn; a run that is resumed begins with the steps it has done.
    """

    trees: Sequence[Tree]
    prompts: int
    settings: TrainingSettings
    seed: int
    world: World
    step: int = 0

    def draw(self) -> list[Tree]:
        """The next meta batch: the prompts in shuffled order, pass after pass."""
        size = min(self.prompts, len(self.trees))
        places = range(self.step * size, (self.step + 1) * size)
        self.step += 1
        count = len(self.trees)
        return [self.trees[_order(count, self.seed, place // count)[place % count]] for place in places]

    def backward(self, model: RewardModel, trees: Sequence[Tree], factor: float) -> float:
        """Add the gradient of factor · (mean J over the trees) to the parameters, this process's share.

        Returns:
            That share of the mean of J.
        """
        before, total = random_state(model), 0.0
        for batch in loop.batches(model, trees, self.settings, self.world):
            out = model(batch)
            each, prompt = differences(given(out, "rewards"), batch.targets.tree), batch.targets.tree
            counted = torch.zeros_like(each).index_fill(0, prompt[batch.targets.counted > 0], 1.0)
            value = (each * counted).sum() / len(trees)
            (factor * value).backward()  # type: ignore[no-untyped-call]
            total += value.item()
        restore_random_state(model, before)  # so that dropout falls as it does without this
        return total

    def gradient(
        self, model: RewardModel, trees: Sequence[Tree], parameters: Sequence[nn.Parameter]
    ) -> tuple[float, list[Tensor]]:
        """Mean J over the trees, and its gradient by these parameters alone, the same on all processes.

        Gradients that parameters hold are left as they are.
        """
        held = [(p, p.grad) for p in model.parameters() if p.requires_grad]
        for parameter, _ in held:
            parameter.grad = None
        try:
            with alone(model, parameters):
                share = self.backward(model, trees, 1.0)
            self.world.sum_gradients(list(parameters))
            found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        finally:
            for parameter, gradient in held:
                parameter.grad = gradient
        return self.world.total([share])[0], found


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    drawn: list[int] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return drawn


@contextmanager
def alone(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients are computed for these parameters and for nothing below them."""
    own = {id(p) for p in parameters}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
