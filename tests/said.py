"""What raters said: batches for losses made of plain numbers, and trees for models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import families
from holdtrue.tokens.batches import Targets
from holdtrue.tokens.tree import Tree


def targets(
    answers: int,
    first: list[int] | Tensor = (),  # type: ignore[assignment]
    second: list[int] | Tensor = (),  # type: ignore[assignment]
    *,
    dtype: torch.dtype = torch.float32,
    label: float | list[float] | Tensor = 1.0,
    weight: float | list[float] | Tensor = 1.0,
    margin: float | list[float] | Tensor = 0.0,
    shared: int | list[int] = 0,
    ratings: list[float] | list[list[float]] | Tensor | None = None,
    accepted: list[float] | None = None,
    length: list[int] | None = None,
    tree: list[int] | None = None,
    counted: list[float] | None = None,
    marks: list[int] | None = None,
    steps: list[float] | Tensor | None = None,
) -> Targets:
    """Targets of ``answers`` answers; what is not given is nothing, or the same for all pairs."""
    pairs = len(first)

    def column(value: object) -> Tensor:
        return torch.as_tensor(value, dtype=dtype).expand(pairs).clone()

    rated = torch.full((answers, 1), torch.nan) if ratings is None else torch.as_tensor(ratings)
    return Targets(
        first=torch.as_tensor(first, dtype=torch.int64),
        second=torch.as_tensor(second, dtype=torch.int64),
        label=column(label),
        weight=column(weight),
        margin=column(margin),
        shared=torch.as_tensor(shared, dtype=torch.int64).expand(pairs),
        ratings=rated.to(dtype).reshape(answers, rated.shape[-1] if rated.ndim > 1 else 1),
        accepted=torch.full((answers,), torch.nan) if accepted is None else torch.tensor(accepted),
        length=torch.ones(answers, dtype=torch.int64) if length is None else torch.tensor(length),
        marks=torch.zeros(answers, dtype=torch.int64) if marks is None else torch.tensor(marks),
        steps=torch.zeros(0, dtype=dtype) if steps is None else torch.as_tensor(steps, dtype=dtype),
        tree=torch.zeros(answers, dtype=torch.int64) if tree is None else torch.tensor(tree),
        counted=torch.ones(answers) if counted is None else torch.tensor(counted),
    )


def trees() -> list[Tree]:
    """Seven prompts of two to four answers, rated, each compared with the next."""
    random = np.random.default_rng(0)
    made = []
    for i, answers in enumerate([[5, 4], [3, 6, 2], [7, 1], [2, 2, 5, 3], [4, 9], [1, 3], [6, 6, 6]]):
        count = len(answers)
        made.append(
            replace(
                families.split(3 + i, answers, 100 * i),
                first=np.arange(count - 1),
                second=np.arange(1, count),
                label=random.choice([1.0, 0.0, 0.5, 0.8], count - 1).astype(np.float32),
                weight=random.uniform(0.5, 2, count - 1).astype(np.float32),
                margin=random.uniform(0, 1, count - 1).astype(np.float32),
                ratings=random.uniform(0, 4, (count, 1)).astype(np.float32),
                accepted=random.uniform(0, 1, count).astype(np.float32),
                marks=tuple(
                    (2 + i, 2 + i + length) for length in answers
                ),  # the prompt's end, and the answer's
                steps=random.integers(0, 2, 2 * count).astype(np.float32),
            )
        )
    made[1].ratings[0] = np.nan
    return made
