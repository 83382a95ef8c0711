"""A step's gradients: the same however it is cut, and untouched by what does not count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdtrue.kinds import choose
from holdtrue.policy.critic import of_policy
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.inputs import Scored
from holdtrue.policy.samples import Samples
from holdtrue.policy.update import Drawing, add_gradients, logprobs_of, of_all, passes
from holdtrue.training.distributed import World
from policy_models import policy

DRAWING = Drawing(Decoding(max_new_tokens=9), torch.tensor([0]))


def step(name: Any, rows_per_pass: int, keep: list[bool], junk: int = 0) -> tuple[Any, Any]:
    """Gradients of a step of two groups of three uneven answers; ``junk`` changes those not kept."""
    model = policy("llama")
    critic = of_policy(model)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    draw = np.random.default_rng(0)
    prompts = [draw.integers(3, 97, 2), draw.integers(3, 97, 5)]
    answers = [draw.integers(3, 97, n) for n in (1, 9, 4, 3, 3, 7)]
    rewards = torch.tensor(draw.normal(size=6)).float()
    for row, kept in enumerate(keep):
        if not kept:
            answers[row] = answers[row] + junk if len(answers[row]) < 90 else answers[row]
            answers[row] %= 97
            rewards[row] = float("nan") if junk else 5.0
    old = [np.full(len(ids), -4.5, dtype=np.float32) for ids in answers]
    padded = Samples(prompts, 3, answers, old, ["stop"] * 6).padded(0)
    algorithm = choose("holdtrue.policy.algorithms", name, None)
    reference = logprobs_of(model, padded, DRAWING, rows_per_pass) - 0.1 * padded.completion_NT
    scored = Scored(
        rewards,
        padded.completion_NT,
        torch.tensor(keep),
        3,
        algorithm.kl_coef,
        padded.logprobs_NT,
        reference,
        of_all(critic, padded, rows_per_pass) - 0.1,
    )
    advantages = algorithm.advantages(scored)
    told = {"critic": critic, "returns": algorithm.returns(scored)}
    learnt = add_gradients(model, algorithm, scored, advantages, padded, DRAWING, rows_per_pass, **told)
    parts = [*model.parameters(), *(critic.parameters() if "values" in algorithm.needs else ())]
    gradients = torch.cat([p.grad.flatten() for p in parts]) / learnt.loss.weight
    return gradients, {name: float(mean.value) for name, mean in learnt.metrics.items()}


PPO = {"kind": "ppo", "entropy_coef": 0.1, "value_coef": 1.0}


@pytest.mark.parametrize("name", ["rloo", "grpo", "dapo", "dr_grpo", "gspo", "reinforce_pp", "ppo", PPO])
def test_no_way_to_cut_a_step_into_passes_changes_it(name: Any) -> None:
    keep = [True, True, False, True, True, True]
    whole, metrics = step(name, 6, keep)
    assert whole.norm() > 1e-3
    for rows_per_pass in (1, 2, 5):
        parts, own = step(name, rows_per_pass, keep)
        rounding = 1e-6 * max(1.0, whole.abs().max().item())
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=rounding)
        assert own == pytest.approx(metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["rloo", "grpo", "reinforce_pp", PPO])
def test_rows_that_are_not_kept_move_nothing_whatever_they_hold(name: Any) -> None:
    keep = [True, True, False, True, True, False]
    plain, _ = step(name, 2, keep)
    junk, _ = step(name, 2, keep, junk=13)
    torch.testing.assert_close(junk, plain, rtol=1e-4, atol=1e-6)


def test_log_probabilities_of_the_policy_before_the_update_come_along() -> None:
    model = policy("llama")
    ids = [np.array([5, 6]), np.array([7])]
    padded = Samples(
        [np.array([3, 4])], 2, ids, [np.zeros(len(i), np.float32) for i in ids], ["stop"] * 2
    ).padded(0)
    algorithm = choose("holdtrue.policy.algorithms", {"kind": "rloo", "kl_coef": 0}, None)
    scored = Scored(torch.tensor([1.0, 2.0]), padded.completion_NT, torch.tensor([True, True]), 2)
    learnt = add_gradients(model, algorithm, scored, algorithm.advantages(scored), padded, DRAWING, 1)
    torch.testing.assert_close(learnt.logprobs, logprobs_of(model, padded, DRAWING, 2))


def test_a_process_without_an_answer_has_no_pass_to_make() -> None:
    ids = [np.array([3, 4], dtype=np.int64)]
    padded = Samples(ids, 1, ids, [np.zeros(2, np.float32)], ["stop"]).padded(0)
    assert list(passes(padded, torch.zeros(0, dtype=torch.int64), 2)) == []
    assert [World(rank, 3).part(2) for rank in range(3)] == [slice(0, 0), slice(0, 1), slice(1, 2)]
