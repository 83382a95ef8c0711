"""Cross-entropy of steps against numbers made by hand."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from holdtrue.errors import DataError
from holdtrue.losses.step_cross_entropy import StepCrossEntropy
from holdtrue.records import Answer, Group
from holdtrue.reward.model import RewardOutput
from said import targets

NAN = float("nan")


def test_a_step_costs_the_log_of_the_probability_of_what_was_said() -> None:
    out = RewardOutput(steps=torch.tensor([0.0, 1.0, -1.0]))
    found = StepCrossEntropy()(out, targets(2, marks=[2, 1], steps=[1.0, 0.0, 0.5]))
    # log 2; log(1 + e); (log(1 + e^-1) + log(1 + e)) / 2
    assert found.terms.tolist() == pytest.approx([0.693147, 1.313262, 0.813262], abs=1e-6)
    assert found.weights.tolist() == [1.0, 1.0, 1.0]


def test_steps_nobody_judged_and_answers_that_do_not_count_have_weight_zero() -> None:
    out = RewardOutput(steps=torch.zeros(4))
    said = targets(2, marks=[3, 1], steps=[1.0, NAN, 0.0, 1.0], counted=[1.0, 0.0])
    found = StepCrossEntropy()(out, said)
    assert found.weights.tolist() == [1.0, 0.0, 1.0, 0.0] and found.terms.isfinite().all()


def test_ratings_of_minus_one_to_one_are_probabilities_by_their_range() -> None:
    out = RewardOutput(steps=torch.tensor([0.3, 0.3, 0.3]))
    one = StepCrossEntropy(lowest=-1)(out, targets(1, marks=[3], steps=[-1.0, 0.0, 1.0]))
    other = StepCrossEntropy()(out, targets(1, marks=[3], steps=[0.0, 0.5, 1.0]))
    assert torch.equal(one.terms, other.terms)


def test_a_value_out_of_range_is_refused_before_training() -> None:
    group = Group("q", (Answer("a\nb", steps=((1, -1.0), (3, 0.5))),))
    StepCrossEntropy(lowest=-1).check([group])
    with pytest.raises(DataError, match=r"valued -1, outside of 0 to 1; set .* \(values seen: -1 to 0\.5\)"):
        StepCrossEntropy().check([group])


def test_a_range_has_two_ends() -> None:
    with pytest.raises(ValidationError, match="lowest must be below highest, got 1 and 1"):
        StepCrossEntropy(lowest=1)
