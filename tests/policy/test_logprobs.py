"""The entropy of what tokens are drawn from: by its definition, and with the gradient of differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdtrue.policy.decoding import Decoding
from holdtrue.policy.logprobs import logprobs_and_entropy, token_logprobs
from holdtrue.policy.samples import PaddedSamples, Samples
from policy_models import policy

BANNED = torch.tensor([0, 5])


def padded() -> PaddedSamples:
    answers = [np.array([7, 8, 9]), np.array([10])]
    old = [np.zeros(len(ids), dtype=np.float32) for ids in answers]
    return Samples([np.array([3, 4])], 2, answers, old, ["stop", "stop"]).padded(0)


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 2.0, "top_k": 5}]
)
def test_entropy_is_that_of_what_was_drawn_from(changes: dict[str, Any]) -> None:
    model, part, decoding = policy("llama"), padded(), Decoding(**changes)
    logprobs, entropy = logprobs_and_entropy(model, part, decoding, BANNED)
    assert torch.equal(logprobs, token_logprobs(model, part, decoding, BANNED))
    assert not entropy[~part.completion_NT].any()
    with torch.no_grad():
        logits = model(part.ids_NT[:1]).logits[0, 1:4]
    for place, row in enumerate(logits.double() / decoding.temperature):
        row[BANNED] = -torch.inf
        mass = row.softmax(0).sort(descending=True).values
        kept = mass[: decoding.top_k or None]
        kept = kept / kept.sum()
        kept = kept[kept.cumsum(0) - kept < decoding.top_p]
        kept = kept[kept > 0] / kept.sum()
        expected = -(kept * kept.log()).sum().item()
        assert entropy[0, 2 + place].item() == pytest.approx(expected, rel=1e-4)


def test_a_policy_that_knows_nothing_has_the_entropy_of_all_allowed_tokens() -> None:
    model, part = policy("llama"), padded()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    _, entropy = logprobs_and_entropy(model, part, Decoding(), BANNED)
    assert entropy[part.completion_NT].tolist() == pytest.approx([np.log(97 - 2)] * 4)
    _, greedy = logprobs_and_entropy(policy("llama"), part, Decoding(top_k=1), BANNED)
    assert not greedy.any()


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.5, "top_k": 4}])
def test_the_gradient_of_the_entropy_is_its_difference(changes: dict[str, Any]) -> None:
    model, part, decoding = policy("llama").double(), padded(), Decoding(**changes)

    def total() -> torch.Tensor:
        return logprobs_and_entropy(model, part, decoding, BANNED)[1].double().sum()

    total().backward()
    weight = model.lm_head.weight
    assert weight.grad.isfinite().all() and not weight.grad[BANNED].any()
    direction = weight.grad / weight.grad.norm()
    with torch.no_grad():
        weight += 1e-4 * direction  # so small that the cut stays where it is
        above = total().item()
        weight -= 2e-4 * direction
        below = total().item()
    assert (above - below) / 2e-4 == pytest.approx(weight.grad.norm().item(), rel=1e-2)


def test_answers_without_a_token_have_no_entropy() -> None:
    empty = Samples(
        [np.array([3, 4])], 1, [np.array([], dtype=np.int64)], [np.zeros(0, np.float32)], ["stop"]
    )
    logprobs, entropy = logprobs_and_entropy(policy("llama"), empty.padded(0), Decoding(), BANNED)
    assert not logprobs.any() and not entropy.any() and logprobs.shape == entropy.shape == (1, 2)
