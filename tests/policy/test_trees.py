"""Policies read the answers to a prompt as a tree, which changes no log-probability, gradient or draw."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.critic import of_policy
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.logprobs import token_logprobs
from holdtrue.policy.sampler import SharedPrefixSampler
from holdtrue.policy.samples import PaddedSamples, Samples
from holdtrue.policy.trees import lay_out, logits_before, reads_trees, share_prompts
from policy_models import SHARING, policy

NONE = torch.tensor([], dtype=torch.int64)


def some_samples() -> PaddedSamples:
    """Three prompts, the last two equal, with three answers each; one of them has no token."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 95, length) for length in (5, 17)]
    answers = [rng.integers(3, 95, length) for length in (4, 1, 9, 0, 12, 3, 2, 20, 6)]
    old = [np.zeros(len(ids), dtype=np.float32) for ids in answers]
    return Samples([*prompts, prompts[1]], 3, answers, old, ["length"] * 9).padded(0)


def gradients(model: Any, padded: PaddedSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    logprobs = token_logprobs(model, padded, Decoding(), NONE)
    weights = torch.linspace(-1, 1, logprobs.numel()).reshape(logprobs.shape)
    (logprobs * weights).sum().backward()
    return logprobs.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_a_prompt_stands_once_before_its_answers() -> None:
    prompt, answers = np.array([5, 6, 7]), [np.array([8, 9]), np.array([10])]
    old = [np.zeros(len(ids), dtype=np.float32) for ids in answers]
    laid = lay_out(Samples([prompt], 2, answers, old, ["stop"] * 2).padded(0))
    assert laid.input_ids.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert laid.position_ids.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert laid.before.tolist() == [2, 3, 2]  # before 8 and 10 stands the 7, before 9 the 8
    assert laid.plan.shape == [(3, [2, 1])]


@pytest.mark.parametrize("name", SHARING)
def test_log_probabilities_and_gradients_are_those_of_rows_in_full(name: str) -> None:
    rows, trees, padded = policy(name), policy(name), some_samples()
    share_prompts(trees)
    assert reads_trees(trees) and not reads_trees(rows)
    assert lay_out(padded).input_ids.numel() < padded.attention_NT.sum() / 1.5
    expected, expected_gradients = gradients(rows, padded)
    found, found_gradients = gradients(trees, padded)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found_gradients.keys() == expected_gradients.keys()
    for key, gradient in expected_gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found_gradients[key], gradient, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("name", SHARING)
def test_a_policy_that_reads_trees_draws_as_before(name: str) -> None:
    model, sampler = (
        policy(name),
        SharedPrefixSampler(Vocabulary(eos=frozenset({2})), Decoding(max_new_tokens=12)),
    )
    prompts = [np.arange(3, 24), np.array([50])]
    before = sampler.sample(model, prompts, 3, seed=1)
    share_prompts(model)
    after = sampler.sample(model, prompts, 3, seed=1)
    assert [ids.tolist() for ids in before.completion_ids] == [ids.tolist() for ids in after.completion_ids]
    for old, new in zip(before.logprobs, after.logprobs, strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_a_policy_that_trees_would_change_reads_rows_in_full_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = policy("bloom")  # its attention adds a bias by the distance of tokens in the row
    implementation, padded = model.config._attn_implementation, some_samples()
    expected = logits_before(model, padded)
    with caplog.at_level(logging.WARNING):
        share_prompts(model)
    assert "prompts are computed once for each answer" in caplog.text
    assert model.config._attn_implementation == implementation and not reads_trees(model)
    torch.testing.assert_close(logits_before(model, padded), expected)


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # of transformers, through peft
def test_adapters_read_trees_too() -> None:
    torch.manual_seed(0)
    model = get_peft_model(
        policy("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    padded = some_samples()
    expected = logits_before(model, padded)
    share_prompts(model)
    assert reads_trees(model)
    torch.testing.assert_close(logits_before(model, padded), expected, atol=1e-5, rtol=1e-5)


def test_a_critic_that_starts_from_the_policy_gives_the_values_of_rows_in_full() -> None:
    critic, padded = of_policy(policy("llama")), some_samples()
    torch.nn.init.normal_(critic.head.weight)
    rows = deepcopy(critic)
    rows.backbone.set_attn_implementation("sdpa")
    assert reads_trees(critic.backbone) and not reads_trees(rows.backbone)
    torch.testing.assert_close(critic(padded), rows(padded), atol=1e-5, rtol=1e-5)
