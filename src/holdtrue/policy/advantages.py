"""Advantages: how much better a row or a token was than expected.

Time stands last, so the same functions serve an episode (T,), a batch of answers (N, T) and CartPole.
Group baselines take ``rewards`` (N,) with a group's G rows together, and ``keep`` (N,): rows that are not
kept leave the baseline and have advantage 0, as has a row that is alone in its group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def discounted_returns(rewards: Tensor, dones: Tensor, last_value: Tensor | float, gamma: float) -> Tensor:
    """R_t = r_t + γ·R_{t+1}, where an episode's end (``dones``, bool) cuts the sum; (..., T).

    Args:
        last_value: (...) value of the state after the last step, which stands for all rewards to come.
    """
    returns = rewards.new_zeros(rewards.shape)
    following = last_value
    for t in reversed(range(rewards.shape[-1])):
        following = rewards[..., t] + gamma * following * ~dones[..., t]
        returns[..., t] = following
    return returns


def gae(
    rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor | float, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimate (Schulman et al. 2016, arXiv 1506.02438, eq. 16); (..., T).

        δ_t = r_t + γ·V_{t+1} - V_t
        A_t = δ_t + γ·λ·A_{t+1}

    with V_{t+1} and A_{t+1} 0 after an episode's end. λ = 1 gives returns less V, λ = 0 the TD error δ.

    Args:
        last_value: (...) value of the state after the last step.
    """
    advantages = rewards.new_zeros(rewards.shape)
    next_value, next_advantage = last_value, 0.0 * rewards[..., 0]
    for t in reversed(range(rewards.shape[-1])):
        goes_on = ~dones[..., t]
        delta = rewards[..., t] + gamma * next_value * goes_on - values[..., t]
        next_advantage = delta + gamma * lam * next_advantage * goes_on
        next_value = values[..., t]
        advantages[..., t] = next_advantage
    return advantages


def token_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """GAE of answers (N, T), 0 outside the mask; an answer's last token ends its episode.

    Tokens outside the mask (padding, a tool's words) are stepped over: after a token comes the next one
    that the policy wrote.
    """
    order = (~mask).byte().argsort(dim=1, stable=True)  # the policy's tokens first, as they come
    front = mask.gather(1, order)
    packed_rewards = rewards.gather(1, order).where(front, 0.0)
    packed_values = values.gather(1, order).where(front, 0.0)
    found = gae(packed_rewards, packed_values, ~front, 0.0, gamma, lam).where(front, 0.0)
    return found.new_zeros(found.shape).scatter(1, order, found)


def token_rewards(rewards: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """(N, T) the reward at an answer's last token, less each token's penalty; 0 outside the mask.

    Ziegler et al. 2019 (arXiv 1909.08593, eq. 2), with β·KL as the penalty.
    """
    after = mask.flip(1).cumsum(1).flip(1)
    last = mask & (after == 1)
    return rewards[:, None].where(last, 0.0) - penalties.where(mask, 0.0)


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over where the mask is true, and 0 elsewhere; any shape.

    The variance divides by n, as in lm-human-preferences. ``shift_mean=False`` adds the mean back, which
    is how PPO scales rewards (arXiv 2403.17031).
    """
    inside = values.where(mask, 0.0)
    count = mask.sum().clamp(min=1)
    mean = inside.sum() / count
    centred = (inside - mean).where(mask, 0.0)
    white = centred * (centred.square().sum() / count + 1e-8).rsqrt()
    return white if shift_mean else (white + mean).where(mask, 0.0)


def dr_grpo(rewards: Tensor, keep: Tensor, group: int) -> Tensor:
    """r - mean of its group (Dr. GRPO, arXiv 2503.20783, section 3.2); (N,)."""
    return _centred(rewards, keep, group)[0].flatten()


def grpo(rewards: Tensor, keep: Tensor, group: int) -> Tensor:
    """(r - mean) / (std + 1e-4) of its group (DeepSeekMath, arXiv 2402.03300, section 4.1.2); (N,).

    The std divides by n - 1. 1e-4 keeps rounding noise of equal rewards from becoming an advantage.
    """
    centred, count = _centred(rewards, keep, group)
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return (centred / (variance.sqrt() + 1e-4)).flatten()


def rloo(rewards: Tensor, keep: Tensor, group: int) -> Tensor:
    """r - mean of the others of its group (RLOO, arXiv 2402.14740); (N,).

    With n rows that is (r - mean of all) · n / (n - 1).
    """
    centred, count = _centred(rewards, keep, group)
    return (centred * count / (count - 1).clamp(min=1)).flatten()


def reinforce_pp(rewards_NT: Tensor, mask: Tensor) -> Tensor:
    """Rewards to go of each token, whitened over all tokens of the step (REINFORCE++, arXiv 2501.03262); (N,
    T).

        A_t = Σ_{i >= t} r_i,    A = (A - mean) / std

    so with ``token_rewards`` the reward less β times the KL from here on. The step's tokens are taken
    together, whatever their prompt.
    """
    inside = rewards_NT.where(mask, 0.0)
    return whiten(discounted_returns(inside, mask.new_zeros(mask.shape), 0.0, 1.0), mask)


def _centred(rewards: Tensor, keep: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """(P, G) rewards less their group's mean over kept rows, 0 where not kept; (P, 1) how many are kept."""
    if len(rewards) % group:
        raise ValueError(f"{len(rewards)} rows are not groups of {group}")
    kept = keep.view(-1, group)
    rewards_PG = rewards.view(-1, group).where(kept, 0.0)
    count = kept.sum(1, keepdim=True)
    mean = rewards_PG.sum(1, keepdim=True) / count.clamp(min=1)
    return (rewards_PG - mean).where(kept, 0.0), count
