"""Each algorithm's advantages and loss against numbers made by hand.

Two rows, a group of two. Row 0 has two tokens of ratios 1.5 and 0.5, row 1 one token of ratio 1.1;
A = 1 for row 0 and -1 for row 1, clips are 0.2, and no answer has more than 4 tokens. Then

    row 0: -min(1.5, 1.2) = -1.2 (cut),  -min(0.5, 0.8) = -0.5        row 1: -min(-1.1, -1.1) = 1.1
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from holdtrue.policy.algorithms.dapo import DAPO, overlong
from holdtrue.policy.algorithms.dr_grpo import DrGRPO
from holdtrue.policy.algorithms.grpo import GRPO
from holdtrue.policy.algorithms.gspo import GSPO
from holdtrue.policy.algorithms.ppo import PPO
from holdtrue.policy.algorithms.reinforce_pp import ReinforcePP
from holdtrue.policy.algorithms.rloo import RLOO
from holdtrue.policy.inputs import LossInputs, Scored

NAN = math.nan


def f64(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


MASK = torch.tensor([[True, True], [True, False]])
OLD = f64([-1, -2], [-3, NAN])
INPUTS = LossInputs(
    logprobs=OLD + f64([1.5, 0.5], [1.1, NAN]).log(),
    old_logprobs=OLD,
    mask=MASK,
    advantages=torch.tensor([1.0, -1.0], dtype=torch.float64),
    max_new_tokens=4,
    kl_coef=0.1,
    reference_logprobs=OLD + f64([1.5, 0.5], [1.1, NAN]).log() - f64([0.2, -0.1], [0.4, NAN]),
    entropy=f64([1, 3], [2, NAN]),
)
SCORED = Scored(
    rewards=torch.tensor([3.0, 1.0], dtype=torch.float64),
    mask=MASK,
    keep=torch.tensor([True, True]),
    group=2,
    kl_coef=0.5,
    old_logprobs=OLD,
    reference_logprobs=OLD - f64([0.4, -0.2], [1.0, NAN]),
    old_values=f64([1, 2], [0.5, NAN]),
)


def k3(x: float) -> float:
    return math.exp(-x) - 1 + x


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (DAPO(clip_high=0.2), (-1.2 - 0.5 + 1.1) / 3),  # over 3 tokens
        (DAPO(), (-1.28 - 0.5 + 1.1) / 3),  # clipped above 1.28
        (ReinforcePP(), (-1.2 - 0.5 + 1.1) / 3),
        (GRPO(kl_coef=0), ((-1.2 - 0.5) / 2 + 1.1) / 2),  # over tokens of a row, then rows
        (GRPO(), ((-1.7 + 0.1 * (k3(0.2) + k3(-0.1))) / 2 + 1.1 + 0.1 * k3(0.4)) / 2),
        (
            GRPO(kl_estimator="k2"),
            ((-1.7 + 0.1 * 0.025) / 2 + 1.1 + 0.1 * 0.08) / 2,
        ),  # (0.04 + 0.01) / 2, 0.16 / 2
        (DrGRPO(), ((-1.2 - 0.5) / 4 + 1.1 / 4) / 2),
        (DrGRPO(entropy_coef=0.01), ((-1.7 - 0.01 * 4) / 4 + (1.1 - 0.01 * 2) / 4) / 2),
        (RLOO(), (-0.75 + 1.1) / 2),  # ρ of row 0 = 1.5 · 0.5
        (RLOO(clip_low=0.3), (-0.75 + 1.1) / 2),
        (GSPO(clip_low=0.2, clip_high=0.2), (-math.sqrt(0.75) + 1.1) / 2),
        (
            GSPO(),
            (-math.sqrt(0.75) + 1.1) / 2,
        ),  # too small for a good answer, too large for a bad one: not cut
    ],
)
def test_losses(algorithm: object, expected: float) -> None:
    assert algorithm.loss(INPUTS).loss.value.item() == pytest.approx(expected)  # type: ignore[attr-defined]


def test_clipping_cuts_only_where_the_step_was_taken_already() -> None:
    # a good answer grown past 1.2 and a bad one shrunk past 0.8 teach no more; the others do
    for ratio, advantage, teaches in [(1.5, 1, False), (1.5, -1, True), (0.5, 1, True), (0.5, -1, False)]:
        logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
        zero, one = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
        out = ReinforcePP().loss(LossInputs(logprobs, zero, one, torch.tensor([advantage]), 4))
        out.loss.total.backward()  # type: ignore[no-untyped-call]
        assert logprobs.grad is not None and bool(logprobs.grad.any()) is teaches
        assert bool(out.metrics["clip_fraction"].value) is not teaches


def test_metrics() -> None:
    metrics = {name: mean.value.item() for name, mean in GRPO().loss(INPUTS).metrics.items()}
    assert metrics["policy_loss"] == pytest.approx((-0.85 + 1.1) / 2)  # without the KL
    assert metrics["ratio"] == pytest.approx(3.1 / 3)
    assert metrics["clip_fraction"] == pytest.approx(1 / 3)
    drifts = [ratio - 1 - math.log(ratio) for ratio in (1.5, 0.5, 1.1)]
    assert metrics["approx_kl"] == pytest.approx(sum(drifts) / 3)
    assert metrics["kl"] == pytest.approx((k3(0.2) + k3(-0.1) + k3(0.4)) / 3)
    assert metrics["entropy"] == pytest.approx(2)


def test_the_kl_of_the_answer_is_taken_from_the_reward() -> None:
    # KL of the rows 0.4 - 0.2 = 0.2 and 1: rewards 3 - 0.1 = 2.9 and 1 - 0.5 = 0.5
    assert RLOO().advantages(SCORED).tolist() == pytest.approx([2.4, -2.4])
    assert RLOO(kl_coef=0).advantages(SCORED).tolist() == [2, -2]
    dr_grpo = DrGRPO(kl_coef=0.1, kl_in="reward", kl_estimator="k1")
    assert dr_grpo.advantages(SCORED).tolist() == pytest.approx([1.2, -1.2])


def test_reinforce_pp_takes_from_each_token_the_kl_that_is_still_to_come() -> None:
    # to go: 3 - 0.5 · 0.2 = 2.9;  3 + 0.5 · 0.2 = 3.1;  1 - 0.5 = 0.5
    to_go = [2.9, 3.1, 0.5]
    mean = sum(to_go) / 3
    spread = math.sqrt(sum((x - mean) ** 2 for x in to_go) / 3)
    white = [(x - mean) / spread for x in to_go]
    assert ReinforcePP().advantages(SCORED)[MASK].tolist() == pytest.approx(white)


def test_reinforce_pp_with_a_group_baseline() -> None:
    # rewards 3 and 1 less their mean: 1, 1 and -1 over three tokens; mean 1/3, variance 1 - 1/9 = 8/9
    algorithm = ReinforcePP(group_baseline=True, kl_in="loss", kl_estimator="k2")
    spread = math.sqrt(8) / 3
    white = [(2 / 3) / spread, (2 / 3) / spread, (-4 / 3) / spread]
    assert algorithm.advantages(SCORED)[MASK].tolist() == pytest.approx(white)


def test_ppo_by_hand() -> None:
    # rewards -0.5 · 0.4 = -0.2; 3 + 0.5 · 0.2 = 3.1; 1 - 0.5 = 0.5; λ = 0.5; V = 1, 2, 0.5
    # row 0: δ_1 = 3.1 - 2 = 1.1, δ_0 = -0.2 + 2 - 1 = 0.8, A_0 = 0.8 + 0.5 · 1.1 = 1.35
    # row 1: 0.5 - 0.5 = 0
    algorithm = PPO(lam=0.5, whiten_rewards=False)
    returns = algorithm.returns(SCORED)
    assert returns is not None and torch.allclose(returns, f64([2.35, 3.1], [0.5, 0]))
    raw = [1.35, 1.1, 0.0]
    mean = sum(raw) / 3
    spread = math.sqrt(sum((x - mean) ** 2 for x in raw) / 3)
    assert algorithm.advantages(SCORED)[MASK].tolist() == pytest.approx([(x - mean) / spread for x in raw])


def test_ppo_scales_rewards_and_keeps_their_mean() -> None:
    # -0.2, 3.1, 0.5: mean 3.4 / 3; with λ = 1 and V = 0 the return of a row is the sum of its rewards
    rewards = [-0.2, 3.1, 0.5]
    mean = sum(rewards) / 3
    spread = math.sqrt(sum((x - mean) ** 2 for x in rewards) / 3)
    first, second, third = ((x - mean) / spread + mean for x in rewards)
    returns = PPO(lam=1.0, whiten_rewards=True).returns(
        replace(SCORED, old_values=torch.zeros(2, 2, dtype=torch.float64))
    )
    assert returns is not None
    assert returns[MASK].tolist() == pytest.approx([first + second, second, third])


def test_the_critics_loss_is_the_worse_of_free_and_clipped() -> None:
    # V 1.5 from 1, R 2: free 0.25, held at 1.2: 0.64 (cut);  V 2 from 2, R 2: 0;  V 0.6 from 0.5, R 0: 0.36
    inputs = replace(
        INPUTS,
        values=f64([1.5, 2], [0.6, NAN]),
        old_values=f64([1, 2], [0.5, NAN]),
        returns=f64([2, 2], [0, NAN]),
    )
    out = PPO().loss(inputs)
    assert out.metrics["value_loss"].value.item() == pytest.approx((0.64 + 0 + 0.36) / 6)
    assert out.metrics["value_clip_fraction"].value.item() == pytest.approx(1 / 3)
    assert out.loss.value.item() == pytest.approx((-1.2 - 0.5 + 1.1) / 3 + 0.1 * 1.0 / 6)


def test_an_algorithm_says_what_it_was_not_given() -> None:
    with pytest.raises(ValueError, match="needs old_values"):
        PPO().advantages(replace(SCORED, old_values=None))
    with pytest.raises(ValueError, match="needs reference_logprobs"):
        RLOO().advantages(replace(SCORED, reference_logprobs=None))
    with pytest.raises(ValueError, match="needs entropy"):
        DAPO(entropy_coef=0.1).loss(replace(INPUTS, entropy=None))
    with pytest.raises(ValueError, match="needs reference_logprobs"):
        GRPO().loss(replace(INPUTS, reference_logprobs=None))


def test_overlong_answers_are_punished_softly() -> None:
    lengths = torch.tensor([0, 80, 85, 90, 100, 500])  # free up to 80, then evenly down to -1 at 100
    assert overlong(lengths, limit=100, cache=20).tolist() == [0, 0, -0.25, -0.5, -1, -1]
    with pytest.raises(ValueError, match="cache is between 1 and the limit of 100 tokens, got 0"):
        overlong(lengths, limit=100, cache=0)


@pytest.mark.parametrize("algorithm", [RLOO(kl_coef=0.05), GRPO(kl_in="reward", kl_estimator="k1")])
def test_a_policy_at_its_reference_with_equal_rewards_has_nothing_to_learn(algorithm: RLOO | GRPO) -> None:
    """Drawing and a full forward agree to 1e-5: Adam would make full steps of what is below."""
    rounding = f64([3e-6, -4e-6], [8e-6, NAN])
    scored = replace(SCORED, rewards=f64([0.5, 0.5])[0], reference_logprobs=OLD + rounding, kl_coef=0.05)
    assert not algorithm.advantages(scored).any()
    moved = replace(scored, reference_logprobs=OLD + 1000 * rounding)
    assert algorithm.advantages(moved).all()
