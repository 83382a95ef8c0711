import math

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from holdtrue.errors import SettingsError
from holdtrue.health.stream import RepetitionDetection
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.guard import LoopGuard, TokenBan, sglang_parameters, vllm_parameters

WIDTH = 64
VOCABULARY = Vocabulary(
    eos=frozenset({2}), control=frozenset({0, 1, 2}), size=60, pad=0, digits=frozenset(range(10, 20))
)
RULE = RepetitionDetection(max_pattern_size=8, min_count=4, min_cover=12)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WIDTH,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


class Script(LogitsProcessor):
    """Rows say what they are told."""

    def __init__(self, rows, prompt):
        self.rows, self.prompt = rows, prompt

    def __call__(self, input_ids, scores):
        at = input_ids.shape[1] - self.prompt
        said = torch.full_like(scores, float("-inf"))
        for row, words in enumerate(self.rows):
            said[row, words[at % len(words)]] = 0.0
        return said


def generate(model, rows, guard, new=40, **more):
    prompt = torch.full((len(rows), 3), 5)
    ids = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([guard]),
        logits_processor=LogitsProcessorList([Script(rows, 3)]),
        **more,
    )
    return ids[:, 3:].tolist()


def test_each_row_ends_for_its_own_reason(model):
    varied = [20 + (n * n) % 37 for n in range(40)]
    rows = [[33, *[40, 41, 42] * 20], varied, [20, 21, 22, 2, 50]]
    guard = LoopGuard(VOCABULARY, RULE)
    out = generate(model, rows, guard)
    # Row 0: one token, then 12 tokens are four copies of three, and padding. Row 2 ends with its fourth.
    assert guard.finish == ["loop", "length", "eos"]
    assert guard.lengths.tolist() == [13, 40, 4]
    assert guard.onsets.tolist() == [1, -1, -1]
    assert out[0] == rows[0][:13] + [0] * 27
    assert out[1] == varied
    assert out[2] == [20, 21, 22, 2] + [0] * 36


def test_generation_is_over_when_every_row_loops(model):
    out = generate(model, [[40, 41], [50]], LoopGuard(VOCABULARY, RULE))
    assert [len(row) for row in out] == [12, 12]


def test_a_counter_is_stopped_where_the_vocabulary_knows_digits(model):
    counter = [t for n in range(1, 60) for t in (30, *(10 + int(d) for d in str(n)), 31)]
    guard = LoopGuard(VOCABULARY, RULE, RepetitionDetection(8, 2, 5, 15))
    generate(model, [counter], guard, new=100)
    # five copies of three, each number one: 1..5 have one digit
    assert guard.finish == ["loop"] and guard.lengths.tolist() == [15]


def test_a_guard_serves_one_call(model):
    guard = LoopGuard(VOCABULARY, RULE)
    generate(model, [[20, 21, 22, 2]], guard)
    with pytest.raises(SettingsError, match="make a new one for each call"):
        generate(model, [[20, 21, 22, 2]] * 2, guard)


def test_what_is_banned_is_never_sampled_and_the_rest_sums_to_one(model):
    ban = TokenBan(VOCABULARY)
    logits = torch.randn(4, WIDTH)
    scores = ban(None, logits)
    banned = [0, 1, 60, 61, 62, 63]
    allowed = [i for i in range(WIDTH) if i not in banned]
    assert (scores[:, banned] == -math.inf).all()
    torch.testing.assert_close(scores[:, allowed].exp().sum(-1), torch.ones(4))
    # ratios between allowed tokens, the end token among them, stay as they were
    torch.testing.assert_close(scores[:, 5] - scores[:, 2], logits[:, 5] - logits[:, 2])

    model.lm_head.weight.data[61] += 5.0
    prompt = torch.randint(3, 60, (32, 4), generator=torch.Generator().manual_seed(1))
    done = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        top_k=0,
        max_new_tokens=20,
        logits_processor=LogitsProcessorList([ban]),
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
    )
    out = done.sequences[:, 4:]
    ended = (out == 2).cumsum(1) - (out == 2).int() > 0  # what follows an end is padding
    assert not np.isin(out[~ended].numpy(), banned).any()
    torch.testing.assert_close(ban(None, done.logits[0]), done.scores[0])


def test_one_setting_drives_the_engines():
    rule = RepetitionDetection(max_pattern_size=64, min_count=4, min_cover=64)
    asked = vllm_parameters(VOCABULARY, WIDTH, rule)
    assert asked == {
        "repetition_detection": {"max_pattern_size": 64, "min_pattern_size": 16, "min_count": 4},
        "stop_token_ids": [2],
        "logit_bias": dict.fromkeys([0, 1, 60, 61, 62, 63], -100.0),
    }
    assert sglang_parameters(VOCABULARY, WIDTH) == {
        "stop_token_ids": [2],
        "logit_bias": dict.fromkeys(["0", "1", "60", "61", "62", "63"], -100.0),
    }


def test_nothing_to_ban_changes_nothing_but_the_sum():
    scores = TokenBan(Vocabulary())(None, torch.zeros(1, 4))
    torch.testing.assert_close(scores, torch.full((1, 4), math.log(0.25)))
