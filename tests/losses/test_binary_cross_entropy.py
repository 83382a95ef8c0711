"""Binary cross-entropy of the reward as a logit."""

from __future__ import annotations

import pytest
import torch

from holdtrue.losses.binary_cross_entropy import BinaryCrossEntropy
from holdtrue.losses.cross_entropy import CrossEntropy
from holdtrue.reward.model import RewardOutput
from said import targets

REWARDS = torch.tensor([1.2, 1.2, 1.2, -3.0])
SAID = targets(4, accepted=[1.0, 0.0, 0.7, 1.0])


def test_terms_are_those_of_hand() -> None:
    found = BinaryCrossEntropy()(RewardOutput(rewards=REWARDS), SAID)
    # log(1 + e^-1.2); the same + 1.2; 0.7 of the first and 0.3 of the second; log(1 + e^3)
    assert found.terms.tolist() == pytest.approx([0.263282, 1.463282, 0.623282, 3.048587], abs=1e-6)
    assert found.weights.tolist() == [1, 1, 1, 1]


def test_it_is_the_cross_entropy_of_two_logits_with_this_gap() -> None:
    logits = torch.stack([torch.full((4,), 0.2), REWARDS + 0.2], 1)
    two = CrossEntropy()(RewardOutput(logits=logits), SAID)
    assert BinaryCrossEntropy()(RewardOutput(rewards=REWARDS), SAID).terms.tolist() == pytest.approx(
        two.terms.tolist(), abs=1e-6
    )
