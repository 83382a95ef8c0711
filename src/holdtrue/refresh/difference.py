"""MetaRM's difference objective: how far apart a reward model puts answers to one prompt.

    J = (2 / k²) Σ_{i<j} σ(|r_i - r_j|)            per prompt with k answers

It lies in [(k - 1) / 2k, (k - 1) / k): the lower end where all rewards are equal. It needs no labels, and it
is raised as well by putting wrong orders further apart, so it is an alarm when it falls and no score when it
rises. At a difference of 0 its gradient is 0. Source: arXiv 2405.00438, eq. 1 (2401.06080, eq. 10).
"""

from __future__ import annotations

import torch
from torch import Tensor


def differences(rewards: Tensor, prompt: Tensor) -> Tensor:
    """(P,) J of each prompt, of rewards (N,) and the number in 0..P-1 of each answer's prompt (N,)."""
    count = int(prompt.max()) + 1 if len(prompt) else 0
    first, second = torch.triu_indices(len(rewards), len(rewards), 1, device=rewards.device)
    same = prompt[first] == prompt[second]
    first, second = first[same], second[same]
    gap = (rewards[first] - rewards[second]).abs()
    sums = rewards.new_zeros(count).index_add(0, prompt[first], torch.sigmoid(gap))
    answers = torch.bincount(prompt, minlength=count).to(rewards.dtype)
    return 2 * sums / answers.square()


def difference(rewards: Tensor) -> Tensor:
    """J of one prompt, of the rewards (k,) of its answers."""
    return differences(rewards, torch.zeros(len(rewards), dtype=torch.int64, device=rewards.device))[0]


def bounds(answers: int) -> tuple[float, float]:
    """J when all rewards are equal, and what it approaches when all are far apart."""
    return (answers - 1) / (2 * answers), (answers - 1) / answers
