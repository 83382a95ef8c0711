"""Returns, GAE and baselines against numbers made by hand, and what holds of them whatever the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holdtrue.policy import advantages
from holdtrue.policy.advantages import discounted_returns, gae, token_gae, token_rewards, whiten

BASELINES = {"grpo": advantages.grpo, "dr_grpo": advantages.dr_grpo, "rloo": advantages.rloo}
every = pytest.mark.parametrize("name", BASELINES)
T = torch.tensor


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flags(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def answers(seed: int, rows: int = 6, tokens: int = 7) -> tuple[Tensor, Tensor]:
    """Mask with at least one token a row, and lengths."""
    lengths = torch.randint(1, tokens + 1, (rows,), generator=torch.Generator().manual_seed(seed))
    return torch.arange(tokens) < lengths[:, None], lengths


def test_returns_are_discounted_and_cut_at_an_episodes_end() -> None:
    # from behind: 4 + 0.5·10 = 9; 3 (its episode ends); 2 + 0.5·3 = 3.5; 1 + 0.5·3.5 = 2.75
    dones = T([False, False, True, False])
    found = discounted_returns(f64(1, 2, 3, 4), dones, 10.0, 0.5)
    assert found.tolist() == [2.75, 3.5, 3.0, 9.0]


def test_gae_by_hand() -> None:
    # γ = 0.5, λ = 0.5, V = (1, 2, 4), last value 8
    # δ_2 = 3 + 4 - 4 = 3;  δ_1 = 2 + 2 - 2 = 2;  δ_0 = 1 + 1 - 1 = 1
    # A_2 = 3;  A_1 = 2 + 0.25·3 = 2.75;  A_0 = 1 + 0.25·2.75 = 1.6875
    never = T([False, False, False])
    assert gae(f64(1, 2, 3), f64(1, 2, 4), never, 8.0, 0.5, 0.5).tolist() == [1.6875, 2.75, 3.0]
    # with an end after the second step: δ_1 = 2 - 2 = 0 and nothing comes through; A_0 = 1 + 0
    ends = T([False, True, False])
    assert gae(f64(1, 2, 3), f64(1, 2, 4), ends, 8.0, 0.5, 0.5).tolist() == [1.0, 0.0, 3.0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_lambda_1_is_returns_less_values_and_lambda_0_the_td_error(seed: int, gamma: float) -> None:
    rewards, values, last = draw(seed, 3, 8), draw(seed + 50, 3, 8), draw(seed + 99, 3)
    dones = flags(seed, 3, 8)
    returns = discounted_returns(rewards, dones, last, gamma)
    assert torch.allclose(gae(rewards, values, dones, last, gamma, 1.0), returns - values)
    following = torch.cat([values[:, 1:], last[:, None]], 1)
    td_error = rewards + gamma * following * ~dones - values
    assert torch.allclose(gae(rewards, values, dones, last, gamma, 0.0), td_error)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
def test_a_perfect_critic_leaves_no_advantage(rewards: list[float], gamma: float, lam: float) -> None:
    never = torch.zeros(len(rewards), dtype=torch.bool)
    values = discounted_returns(f64(*rewards), never, 0.0, gamma)
    assert gae(f64(*rewards), values, never, 0.0, gamma, lam).abs().max() < 1e-9


def test_episodes_in_a_batch_are_those_alone() -> None:
    rewards, values, dones, last = draw(1, 4, 6), draw(2, 4, 6), flags(3, 4, 6), draw(4, 4)
    together = gae(rewards, values, dones, last, 0.9, 0.8)
    for i in range(4):
        alone = gae(rewards[i], values[i], dones[i], last[i], 0.9, 0.8)
        assert torch.equal(together[i], alone)


@pytest.mark.parametrize("seed", range(5))
def test_tokens_that_the_policy_did_not_write_are_stepped_over(seed: int) -> None:
    mask = flags(seed, 5, 9)
    rewards, values = draw(seed, 5, 9), draw(seed + 9, 5, 9)
    rewards[~mask] = values[~mask] = math.nan
    found = token_gae(rewards, values, mask, 0.9, 0.7)
    for i in range(5):
        own = mask[i]
        never = torch.zeros(int(own.sum()), dtype=torch.bool)
        if own.any():
            assert torch.allclose(found[i, own], gae(rewards[i, own], values[i, own], never, 0.0, 0.9, 0.7))
        assert not found[i, ~own].any()


def test_the_reward_stands_at_the_last_token_that_the_policy_wrote() -> None:
    mask = T([[True, True, False], [True, False, True], [False, False, False]])
    penalties = f64(0.5, 0.25, math.nan, 1, math.nan, 2, 9, 9, 9).view(3, 3)
    found = token_rewards(f64(10, 20, 30), penalties, mask)
    # 10 - 0.25 at the second; 20 - 2 at the third, behind a tool's word; a row without tokens has no reward
    assert found.tolist() == [[-0.5, 9.75, 0], [-1, 0, 18], [0, 0, 0]]
    assert found.sum(1).tolist() == [9.25, 17, 0]


def test_whitening_by_hand() -> None:
    # 1, 2, 3 count: mean 2, variance 2/3 (divided by n), 1 / sqrt(2/3) = 1.2247449
    mask = T([True, True, True, False])
    assert whiten(f64(1, 2, 3, 1e9), mask).tolist() == pytest.approx([-1.2247449, 0, 1.2247449, 0], abs=1e-6)
    kept = whiten(f64(1, 2, 3, math.nan), mask, shift_mean=False)
    assert kept.tolist() == pytest.approx([0.7752551, 2, 3.2247449, 0], abs=1e-6)


def test_whitening_of_one_value_of_equal_ones_and_of_none_is_finite() -> None:
    one = T([True, False])
    assert whiten(f64(5, 6), one).tolist() == [0, 0]
    assert whiten(f64(5, 5), ~one | one).tolist() == [0, 0]
    assert whiten(f64(5, 6), one & ~one).tolist() == [0, 0]


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_whitened_values_have_mean_0_and_variance_1(values: list[float]) -> None:
    inside = torch.ones(len(values), dtype=torch.bool)
    white = whiten(f64(*values), inside)
    variance = f64(*values).var(unbiased=False).item()
    assert white.mean().abs() < 1e-6
    assert white.var(unbiased=False).item() == pytest.approx(variance / (variance + 1e-8), abs=1e-6)


def test_group_baselines_by_hand() -> None:
    rewards = f64(1, 2, 6, 0, 0, 3)
    keep = torch.ones(6, dtype=torch.bool)
    # means 3 and 1
    assert advantages.dr_grpo(rewards, keep, 3).tolist() == [-2, -1, 3, -1, -1, 2]
    # the others' means: 4, 3.5, 1.5 and 1.5, 1.5, 0
    assert advantages.rloo(rewards, keep, 3).tolist() == pytest.approx([-3, -1.5, 4.5, -1.5, -1.5, 3])
    # variances (4 + 1 + 9) / 2 = 7 and (1 + 1 + 4) / 2 = 3
    first, second = math.sqrt(7) + 1e-4, math.sqrt(3) + 1e-4
    expected = [-2 / first, -1 / first, 3 / first, -1 / second, -1 / second, 2 / second]
    assert advantages.grpo(rewards, keep, 3).tolist() == pytest.approx(expected)


def test_a_row_that_is_not_kept_leaves_the_baseline() -> None:
    rewards = f64(1, math.nan, 6, 3)
    keep = T([True, False, True, True])
    # of 1, 6, 3: mean 10/3; others' means 4.5, 2, 3.5
    assert advantages.rloo(rewards, keep, 4).tolist() == pytest.approx([-3.5, 0, 4, -0.5])
    assert advantages.dr_grpo(rewards, keep, 4).tolist() == pytest.approx([-7 / 3, 0, 8 / 3, -1 / 3])


@every
def test_one_row_alone_and_no_row_give_0_and_not_nan(name: str) -> None:
    keep = T([True, False, False, False])
    assert BASELINES[name](f64(5, math.inf, 7, math.nan), keep, 2).tolist() == [0, 0, 0, 0]
    assert BASELINES[name](f64(5, 6), T([True, True]), 1).tolist() == [0, 0]


@every
@given(seed=st.integers(0, 1000), group=st.integers(1, 6), shift=st.floats(-10, 10))
def test_baselines_center_each_group_and_ignore_shift_and_order(
    name: str, seed: int, group: int, shift: float
):
    rewards, keep = draw(seed, 3 * group), flags(seed, 3 * group)
    found = BASELINES[name](rewards, keep, group)
    assert not found[~keep].any()
    assert found.view(3, group).sum(1).abs().max() < 1e-9
    assert torch.allclose(BASELINES[name](rewards + shift, keep, group), found, atol=1e-9)
    order = torch.randperm(group, generator=torch.Generator().manual_seed(seed))
    rows = (torch.tensor([2, 0, 1])[:, None] * group + order).flatten()  # groups and rows within them
    assert torch.allclose(BASELINES[name](rewards[rows], keep[rows], group), found[rows], atol=1e-12)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_grpo_ignores_the_scale_of_rewards_and_the_others_follow_it(seed: int, scale: float) -> None:
    rewards, keep = draw(seed, 8), torch.ones(8, dtype=torch.bool)
    assert torch.allclose(
        advantages.grpo(scale * rewards, keep, 4), advantages.grpo(rewards, keep, 4), atol=0.02
    )
    for name in ("rloo", "dr_grpo"):
        found = BASELINES[name](scale * rewards, keep, 4)
        assert torch.allclose(found, scale * BASELINES[name](rewards, keep, 4))


@every
def test_equal_rewards_teach_nothing(name: str) -> None:
    rewards = torch.full((7,), 0.1)
    assert BASELINES[name](rewards, torch.ones(7, dtype=torch.bool), 7).abs().max() < 1e-3


def test_rows_that_are_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rows are not groups of 2"):
        advantages.rloo(torch.zeros(5), torch.ones(5, dtype=torch.bool), 2)


def test_reinforce_pp_by_hand() -> None:
    # rewards to go: 3, 4 and 1 (one token); mean 8/3, squares 9 + 16 + 1 = 26, variance 26/3 - 64/9 = 14/9
    mask = T([[True, True], [True, False]])
    found = advantages.reinforce_pp(f64(-1, 4, 1, math.nan).view(2, 2), mask)
    spread = math.sqrt(14) / 3
    expected = [[(3 - 8 / 3) / spread, (4 - 8 / 3) / spread], [(1 - 8 / 3) / spread, 0]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_reinforce_pp_is_whitened_over_the_whole_step(seed: int) -> None:
    mask, _ = answers(seed)
    found = advantages.reinforce_pp(draw(seed, 6, 7), mask)
    assert found[mask].mean().abs() < 1e-9
    assert found[mask].var(unbiased=False).item() == pytest.approx(1, abs=1e-6)
    assert not found[~mask].any()
