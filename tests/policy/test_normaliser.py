"""Rewards whitened on reference samples."""

from __future__ import annotations

import json
import math

import pytest
import torch

from holdtrue.errors import QualityError
from holdtrue.policy.normaliser import Normaliser


def fitted(*rewards: float, clip: float | None = None) -> Normaliser:
    made = Normaliser(clip)
    made.fit(torch.tensor(rewards))
    return made


def test_rewards_are_whitened_on_the_reference_samples_and_not_on_themselves() -> None:
    made = fitted(1.0, 3.0, 5.0)  # mean 3, std 2
    assert made(torch.tensor([3.0, 7.0, -1.0])).tolist() == [0.0, 2.0, -2.0]
    assert made(torch.tensor([103.0])).tolist() == [50.0]  # a rise stays visible


def test_clipping_is_in_standard_deviations() -> None:
    assert fitted(1.0, 3.0, 5.0, clip=1.5)(torch.tensor([4.0, 99.0, -99.0])).tolist() == [0.5, 1.5, -1.5]


def test_a_new_reward_model_is_fitted_anew() -> None:
    made = fitted(1.0, 3.0, 5.0)
    made.fit(torch.tensor([100.0, 300.0, 500.0]))
    assert made(torch.tensor([300.0, 500.0])).tolist() == [0.0, 1.0]


def test_rewards_that_are_not_finite_do_not_move_the_scale_and_stay_visible() -> None:
    made = fitted(1.0, math.nan, 3.0, math.inf, 5.0)
    found = made(torch.tensor([5.0, math.nan]))
    assert found[0] == 1.0 and found[1].isnan()


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ((1.0, math.nan, math.nan), "1 of 3 rewards of reference samples are finite; at least 2"),
        ((0.7, 0.7, 0.7), "3 of 3 rewards .* all are about 0.7"),
    ],
)
def test_what_cannot_be_whitened_is_refused(rewards: tuple[float, ...], message: str) -> None:
    with pytest.raises(QualityError, match=message):
        fitted(*rewards)


def test_it_goes_on_from_its_state_bit_for_bit_through_json() -> None:
    made, again = fitted(0.1, 0.7, 0.3), Normaliser()
    again.load_state_dict(json.loads(json.dumps(made.state_dict())))
    rewards = torch.randn(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(rewards), again(rewards))


def test_one_that_was_never_fitted_says_so() -> None:
    with pytest.raises(ValueError, match="not fitted"):
        Normaliser()(torch.zeros(1))
