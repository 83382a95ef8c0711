"""PPO on CartPole-v1 with the same ``gae`` and the same surrogate that train a language model on rewards.

    pip install gymnasium
    python recipes/cartpole.py [SEED]

The four numbers of CartPole are its prompt, left and right its vocabulary, an episode its answer, and every
step that the pole still stands gives a reward of 1. Training ends when validation reaches 300; solved is a
mean return of 195 over 20 episodes that were not seen before.
"""

from __future__ import annotations

import sys
import time

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from holdtrue.policy.advantages import gae, whiten
from holdtrue.policy.objectives import surrogate

ENVS, STEPS, EPOCHS, MINIBATCH = 8, 64, 8, 128
GAMMA, LAM, CLIP, ENTROPY, LEARNING_RATE = 0.99, 0.95, 0.2, 0.01, 3e-3
SOLVED, ENOUGH, EPISODES = 195.0, 300.0, 20


def network(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def sample(policy: nn.Module, states: Tensor) -> Tensor:
    """An action for each state, drawn from the policy; (E, 4) to (E,)."""
    return policy(states).softmax(-1).multinomial(1)[:, 0]


@torch.no_grad()
def evaluate(policy: nn.Module, seed: int) -> float:
    """Mean return of EPISODES episodes that begin as the seed says, with actions drawn as in training."""
    envs = [gymnasium.make("CartPole-v1") for _ in range(EPISODES)]
    states = [env.reset(seed=EPISODES * seed + i)[0] for i, env in enumerate(envs)]
    total = 0.0
    while envs:
        actions = sample(policy, torch.tensor(np.stack(states))).tolist()
        steps = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        total += sum(float(step[1]) for step in steps)
        going = [i for i, step in enumerate(steps) if not (step[2] or step[3])]
        envs, states = [envs[i] for i in going], [steps[i][0] for i in going]
    return total / EPISODES


@torch.no_grad()
def roll_out(
    envs: list[gymnasium.Env], states: Tensor, policy: nn.Module, critic: nn.Module
) -> dict[str, Tensor]:
    """STEPS steps of every environment, each begun again where its episode ends; all (E, STEPS, ...)."""
    rows = []
    for _ in range(STEPS):
        actions = sample(policy, states)
        rewards, dones, following = torch.zeros(len(envs)), torch.zeros(len(envs), dtype=torch.bool), []
        for i, env in enumerate(envs):
            state, reward, terminated, truncated, _ = env.step(int(actions[i]))
            rewards[i] = float(reward)
            dones[i] = terminated or truncated
            if truncated and not terminated:  # time ran out, not the pole: what was to come has a value
                rewards[i] += GAMMA * critic(torch.tensor(state))[0]
            following.append(torch.tensor(env.reset()[0] if dones[i] else state))
        rows.append((states, actions, rewards, dones))
        states = torch.stack(following)
    names = ("states", "actions", "rewards", "dones")
    steps = {
        name: torch.stack(column, 1) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    return steps | {"last_state": states}


def train(seed: int, most_steps: int = 60_000) -> tuple[nn.Module, int]:
    """Train until validation is good enough; the policy, and the steps of the environment it took."""
    torch.manual_seed(seed)
    envs = [gymnasium.make("CartPole-v1") for _ in range(ENVS)]
    states = torch.tensor(np.stack([env.reset(seed=ENVS * seed + i)[0] for i, env in enumerate(envs)]))
    policy, critic = network(2), network(1)
    parameters = [*policy.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    steps, validation = 0, 0.0
    while steps < most_steps and validation < ENOUGH:
        batch = roll_out(envs, states, policy, critic)
        states = batch["last_state"]
        with torch.no_grad():
            values = critic(batch["states"])[..., 0]
            last_value = critic(states)[:, 0]
            advantages = gae(batch["rewards"], values, batch["dones"], last_value, GAMMA, LAM)
            old_logprobs = Categorical(logits=policy(batch["states"])).log_prob(batch["actions"])
        columns = (batch["states"], batch["actions"], old_logprobs, advantages, advantages + values)
        flat = [column.flatten(0, 1) for column in columns]
        for _ in range(EPOCHS):
            for rows in torch.randperm(ENVS * STEPS).split(MINIBATCH):
                seen, actions, old, advantage, returns = (column[rows] for column in flat)
                actor = Categorical(logits=policy(seen))
                advantage = whiten(advantage, torch.ones_like(advantage, dtype=torch.bool))
                terms, _, _ = surrogate(actor.log_prob(actions) - old, advantage, CLIP, CLIP)
                value_loss = (critic(seen)[:, 0] - returns).square().mean() / 2
                loss = terms.mean() + value_loss - ENTROPY * actor.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimizer.step()
        steps += ENVS * STEPS
        if batch["dones"].sum() <= ENVS * STEPS / SOLVED:  # episodes are long enough to be worth validation
            validation = evaluate(policy, 1000 + seed)
    return policy, steps


if __name__ == "__main__":
    started = time.perf_counter()
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    policy, steps = train(seed)
    score = evaluate(policy, 2000 + seed)
    seconds = time.perf_counter() - started
    print(f"mean return {score:.1f} over {EPISODES} episodes after {steps} steps, {seconds:.1f} s")
