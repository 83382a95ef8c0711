import math

import numpy as np
import pytest
import torch

from holdtrue.policy.decoding import Decoding, draw, uniforms

NONE = torch.zeros(0, dtype=torch.long)
LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))


def mass(logprobs):
    return logprobs.exp()[0].tolist()


def test_by_default_tokens_are_drawn_from_the_policy_itself():
    assert mass(Decoding().distribution(LOGITS, NONE)) == pytest.approx([0.1, 0.4, 0.2, 0.3])


def test_a_ban_gives_its_mass_to_the_others_in_proportion():
    found = mass(Decoding().distribution(LOGITS, torch.tensor([1])))
    assert found == pytest.approx([0.1 / 0.6, 0, 0.2 / 0.6, 0.3 / 0.6])


def test_temperature_divides_the_logits():
    # at 1/2 probabilities are squared: .01, .16, .04, .09 of .30
    found = mass(Decoding(temperature=0.5).distribution(LOGITS, NONE))
    assert found == pytest.approx([1 / 30, 16 / 30, 4 / 30, 9 / 30])


def test_top_k_keeps_the_likeliest_and_top_p_the_fewest_that_reach_the_mass():
    assert mass(Decoding(top_k=2).distribution(LOGITS, NONE)) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert mass(Decoding(top_p=0.69).distribution(LOGITS, NONE)) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert mass(Decoding(top_p=0.71).distribution(LOGITS, NONE)) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9])
    # of the two likeliest the first has 4/7 > 0.5
    assert mass(Decoding(top_k=2, top_p=0.5).distribution(LOGITS, NONE)) == [0, 1, 0, 0]


def test_a_draw_inverts_the_cumulated_mass():
    logprobs = Decoding().distribution(LOGITS, torch.tensor([0])).expand(6, -1)
    # 4/9, 2/9, 3/9 of ids 1, 2, 3: bounds at 0.444 and 0.667; id 0 has no mass even at 0
    tokens, chosen = draw(logprobs, np.array([0.0, 0.44, 0.45, 0.66, 0.67, 1 - 2**-53]))
    assert tokens.tolist() == [1, 1, 2, 2, 3, 3]
    assert chosen.tolist() == pytest.approx([math.log(p / 9) for p in (4, 4, 2, 2, 3, 3)])


def test_the_last_ids_are_never_drawn_when_banned():
    logprobs = Decoding().distribution(LOGITS, torch.tensor([2, 3]))
    assert draw(logprobs, np.array([1 - 2**-53]))[0].tolist() == [1]


def test_draws_have_the_frequencies_of_the_distribution():
    logprobs = Decoding().distribution(LOGITS, NONE).expand(4000, -1)
    tokens, _ = draw(logprobs, uniforms(0, 1, 4000, 1)[:, 0])
    # four standard errors of a share of 0.4 among 4,000: 0.031
    assert np.bincount(tokens.numpy()) / 4000 == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=0.031)


def test_numbers_of_a_row_depend_on_seed_prompt_and_place_alone():
    many, few = uniforms(3, 4, 5, 7), uniforms(3, 2, 2, 6)
    assert (many[5:7, :6] == few[2:4]).all()
    assert (uniforms(4, 2, 2, 6) != few).all()
