"""Bradley-Terry beside the likelihood of the preferred answer (GRM)."""

from __future__ import annotations

import pytest
import torch

from holdtrue.losses.lm_regularised import LmRegularised
from holdtrue.reward.model import RewardOutput
from said import targets

# two answers of three tokens and one, with log-probabilities -6 and -2; the gap of rewards is 0.5
OUT = RewardOutput(rewards=torch.tensor([0.5, 0.0]), logprobs=torch.tensor([-1.0, -2.0, -3.0, -2.0]))
LENGTH = [3, 1]


def term(label: float, **fields: float) -> float:
    said = targets(2, [0], [1], label=label, length=LENGTH)
    return LmRegularised(**fields)(OUT, said).terms.item()


def test_the_preferred_answer_is_the_one_to_be_written() -> None:
    # 0.75 · log(1 + e^-0.5) + 0.25 · log(1 + e^0.6)
    assert term(1.0, alpha=0.25, beta=0.1) == pytest.approx(0.75 * 0.474077 + 0.25 * 1.037488, abs=1e-6)
    # the other way round: 0.75 · log(1 + e^0.5) + 0.25 · log(1 + e^0.2)
    assert term(0.0, alpha=0.25, beta=0.1) == pytest.approx(0.75 * 0.974077 + 0.25 * 0.798139, abs=1e-6)


def test_soft_labels_weigh_both_answers() -> None:
    assert term(0.7, alpha=1.0) == pytest.approx(0.7 * 1.037488 + 0.3 * 0.798139, abs=1e-6)


def test_without_alpha_it_is_bradley_terry() -> None:
    assert term(1.0, alpha=0.0) == pytest.approx(0.474077, abs=1e-6)


def test_the_tokens_of_the_preferred_answer_alone_get_a_gradient() -> None:
    logprobs = OUT.logprobs.clone().requires_grad_()
    said = targets(2, [0], [1], length=LENGTH)
    loss = LmRegularised(alpha=1.0, beta=0.1)
    loss(RewardOutput(rewards=OUT.rewards, logprobs=logprobs), said).terms.sum().backward()
    # -β·σ(0.6) = -0.1 · 0.645656
    assert logprobs.grad.tolist() == pytest.approx([-0.064566] * 3 + [0.0], abs=1e-6)
