from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from holdtrue.records import Comparison
from holdtrue.reward.gate import Gate
from holdtrue.reward.kinds.aspects import GateSettings
from holdtrue.tokens.tree import grow
from holdtrue.training import gating

SETTINGS = GateSettings(width=16, layers=1, dropout=0, temperature=1, steps=100, learning_rate=0.02)


def compared(count: int, seed: int, other: bool = False) -> gating.Compared:
    """Random aspects; the first decides for prompts (1, 0), the second for (0, 1), or the ``other`` way."""
    draw = torch.Generator().manual_seed(seed)
    aspects = torch.randn(2 * count, 2, generator=draw)
    kind = torch.arange(count) % 2
    first, second = torch.arange(count), torch.arange(count) + count
    ahead = (aspects[first] - aspects[second])[torch.arange(count), kind] > 0
    return gating.Compared(
        aspects,
        torch.eye(2),
        torch.cat([kind, kind]),
        first,
        second,
        (ahead != other).float(),
        torch.ones(count),
    )


def trained(seed: int = 0, *, other: bool = False) -> tuple[Gate, dict[str, Any]]:
    gate = Gate(2, 2, SETTINGS, seed)
    told = gating.train(
        gate,
        SETTINGS,
        compared(200, 1),
        compared(100, 2, other),
        seed=seed,
        tell=lambda row: None,
    )
    return gate, told


def test_it_learns_which_aspect_counts_for_which_prompt() -> None:
    held_out = compared(100, 2)
    assert gating.measure(Gate(2, 2, SETTINGS), held_out)["accuracy"] < 0.85
    gate, told = trained()
    assert told["best"]["accuracy"] > 0.95 and told["comparisons"] == 200
    weights = gate(torch.eye(2)) / gate.scale
    assert weights[0, 0] > 0.8 and weights[1, 1] > 0.8


def test_one_that_does_not_help_stays_as_it_began() -> None:
    gate, told = trained(other=True)
    assert told["best"]["step"] == 0
    assert torch.equal(gate(torch.eye(2)), Gate(2, 2, SETTINGS)(torch.eye(2)))


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    one, _ = trained()
    torch.rand(3)
    other, _ = trained()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_loss_is_bradley_terry_of_the_gated_gap() -> None:
    # an untrained linear gate of zeros weighs both aspects 1/2: gap = (3 + 1) / 2 - (1 + 0) / 2 = 1.5
    gate = Gate(2, 2, GateSettings(layers=0))
    gate.mlp[0].weight.data.zero_()
    gate.mlp[0].bias.data.zero_()
    pair = gating.Compared(
        torch.tensor([[3.0, 1.0], [1.0, 0.0]]),
        torch.eye(2)[:1],
        torch.tensor([0, 0]),
        *(torch.tensor([i]) for i in (0, 1)),
        torch.tensor([1.0]),
        torch.tensor([1.0]),
    )
    assert gating.measure(gate, pair)["loss"] == pytest.approx(math.log1p(math.exp(-1.5)))


def test_comparisons_of_several_trees_keep_their_answers_and_share_prompts() -> None:
    ids = [np.array(row, dtype=np.int32) for row in ([1, 2, 3], [1, 2, 4], [1, 5])]
    trees = [
        grow(ids[:2], [Comparison(1, 0)]),
        grow([*ids[:2], ids[2]], [Comparison(0, 2), Comparison(2, 1)]),
    ]
    prompts = torch.tensor([[1.0], [1.0], [2.0], [2.0], [1.0]])
    found = gating.Compared.of(trees, torch.zeros(5, 2), prompts)
    assert (found.first.tolist(), found.second.tolist()) == ([1, 2, 4], [0, 4, 3])
    assert found.prompts.tolist() == [[1.0], [2.0]] and found.asked.tolist() == [0, 0, 1, 1, 0]
