"""Bradley-Terry at every token: c = (0, 0, 0.2, 0.5, 1.0), r = (0, 0, 0.1, -0.3), alike up to token 2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.losses.token_bradley_terry import TokenBradleyTerry
from holdtrue.reward.model import RewardOutput
from said import targets

CHOSEN, REJECTED = [0.0, 0.0, 0.2, 0.5, 1.0], [0.0, 0.0, 0.1, -0.3]


def packed(*answers: list[float]) -> RewardOutput:
    lengths = torch.tensor([len(a) for a in answers])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return RewardOutput(values=torch.tensor([v for a in answers for v in a]), offsets=offsets)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"end": "min"}, 0.507749),  # gaps 0.1 and 0.8: (0.644397 + 0.371101) / 2
        ({"end": "max"}, 0.418835),  # and 1.0 - (-0.3) = 1.3, its last value kept: + 0.241008, / 3
        ({"end": "min", "reduce": "sum"}, 1.015498),
        ({"end": "max", "reduce": "sum"}, 1.256506),
    ],
)
def test_the_reference_values_come_out_and_padding_is_never_in_it(
    fields: dict[str, Any], expected: float
) -> None:
    said = targets(2, [0], [1], shared=2, length=[5, 4])
    found = TokenBradleyTerry(**fields)(packed(CHOSEN, REJECTED), said).terms
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_side_that_is_shorter_does_not_matter() -> None:
    said = targets(2, [0], [1], label=0.0, shared=2, length=[4, 5])
    loss = TokenBradleyTerry(end="max")
    assert loss(packed(REJECTED, CHOSEN), said).terms.item() == pytest.approx(0.418835, abs=1e-6)


def test_pairs_of_a_batch_are_those_of_pairs_alone() -> None:
    answers = [CHOSEN, REJECTED, [0.3], [0.7, -0.2, 0.1]]
    said = targets(4, [0, 2, 3], [1, 3, 0], shared=[2, 0, 0], length=[5, 4, 1, 3])
    found = TokenBradleyTerry()(packed(*answers), said).terms.tolist()
    alone = [
        TokenBradleyTerry()(
            packed(answers[i], answers[j]),
            targets(2, [0], [1], shared=shared, length=[len(answers[i]), len(answers[j])]),
        ).terms.item()
        for i, j, shared in ((0, 1, 2), (2, 3, 0), (3, 0, 0))
    ]
    assert found == pytest.approx(alone, abs=1e-7)


def test_answers_of_one_token_are_bradley_terry() -> None:
    said = targets(2, [0], [1], margin=0.3, label=0.9)
    found = TokenBradleyTerry()(packed([1.2], [0.7]), said).terms.item()
    expected = BradleyTerry()(RewardOutput(rewards=torch.tensor([1.2, 0.7])), said).terms.item()
    assert found == pytest.approx(expected, abs=1e-7)
