import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import MambaConfig, MambaForCausalLM, T5Config, T5ForConditionalGeneration

from holdtrue.errors import DataError, ModelError, SettingsError
from holdtrue.health.stream import RepetitionDetection
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.generate import GenerateSampler
from holdtrue.policy.logprobs import rescored, token_logprobs
from holdtrue.policy.sampler import SharedPrefixSampler, unshareable
from policy_models import SHARING, policy

FAMILIES = [*SHARING, "bloom"]
VOCABULARY = Vocabulary(eos=frozenset({7}), control=frozenset({0, 1, 2, 7}), size=95)
"""Ends with 7, and with the 2 of the policy's config; 0, 1, 95 and 96 are banned."""
BANNED = np.array([0, 1, 95, 96])
DECODING = Decoding(max_new_tokens=20)


def prompts():
    """Uneven, one of a single token, one longer than the windows of 8, and two equal ones."""
    rng = np.random.default_rng(0)
    made = [rng.integers(3, 95, length) for length in (5, 30, 1, 12)]
    return [*made, made[1]]


@pytest.fixture(scope="module")
def llama():
    return policy("llama")


def equal(first, second):
    return [a.tolist() for a in first.completion_ids] == [b.tolist() for b in second.completion_ids]


def expected(model, samples, decoding=DECODING, banned=BANNED):
    """Log-probabilities of one full forward for each row, without padding, by their definition."""
    found = []
    for row, ids in enumerate(samples.completion_ids):
        prompt = samples.prompt_ids[samples.prompt_of[row]]
        with torch.no_grad():
            logits = model(torch.from_numpy(np.concatenate([prompt, ids]))[None]).logits[0]
        logits = logits[len(prompt) - 1 : -1] / decoding.temperature
        logits[:, banned] = -torch.inf
        found.append(logits.log_softmax(-1)[torch.arange(len(ids)), torch.from_numpy(ids)].numpy())
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_those_of_a_full_forward_in_every_family(name):
    model = policy(name)
    decoding = replace_decoding(temperature=0.7)
    samples = SharedPrefixSampler(VOCABULARY, decoding).sample(model, prompts(), 3, seed=1)
    assert unshareable(model) is None
    for found, right in zip(samples.logprobs, expected(model, samples, decoding), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)
    assert equal(samples, GenerateSampler(VOCABULARY, decoding).sample(model, prompts(), 3, seed=1))


def replace_decoding(**changes):
    return DECODING.model_copy(update=changes)


def test_training_computes_the_log_probabilities_the_sampler_wrote_down(llama):
    samples = SharedPrefixSampler(VOCABULARY, DECODING).sample(llama, prompts(), 2, seed=0)
    padded = samples.padded(pad=0)
    values = token_logprobs(llama, padded, DECODING, torch.from_numpy(BANNED))
    torch.testing.assert_close(values.detach(), padded.logprobs_NT, atol=1e-5, rtol=0)
    assert values.requires_grad
    befores = [samples.prompt_ids[p] for p in samples.prompt_of]
    for again, first in zip(
        rescored(llama, befores, samples.completion_ids, DECODING, BANNED, rows=3),
        samples.logprobs,
        strict=True,
    ):
        np.testing.assert_allclose(again, first, atol=1e-5)


def test_equal_seeds_give_equal_rows_however_many_are_computed_at_once(llama):
    samples = SharedPrefixSampler(VOCABULARY, DECODING).sample(llama, prompts(), 4, seed=5)
    for size in (1, 8):
        again = SharedPrefixSampler(VOCABULARY, DECODING, max_rows=size).sample(llama, prompts(), 4, seed=5)
        assert equal(samples, again) and again.finish == samples.finish
    assert not equal(samples, SharedPrefixSampler(VOCABULARY, DECODING).sample(llama, prompts(), 4, seed=6))


def test_a_row_does_not_depend_on_the_other_prompts_or_on_the_size_of_its_group(llama):
    sampler = SharedPrefixSampler(VOCABULARY, DECODING)
    many = sampler.sample(llama, prompts(), 4, seed=5)
    alone = sampler.sample(llama, prompts()[:1], 1, seed=5)
    assert alone.completion_ids[0].tolist() == many.completion_ids[0].tolist()
    assert len(alone) == 1


def test_equal_prompts_get_answers_of_their_own(llama):
    samples = SharedPrefixSampler(VOCABULARY, DECODING).sample(llama, prompts(), 2, seed=5)
    second, last = samples.completion_ids[2:4], samples.completion_ids[8:10]
    assert len({tuple(ids.tolist()) for ids in (*second, *last)}) == 4


@pytest.mark.parametrize("compact_at", [0.0, 0.5, 2.0])
def test_taking_ended_rows_out_of_the_cache_changes_no_row(llama, compact_at):
    sampler = SharedPrefixSampler(VOCABULARY, DECODING)
    first = sampler.sample(llama, prompts(), 4, seed=3)
    assert len(set(first.lengths.tolist())) > 5, "rows must end at different times to show anything"
    again = replace(sampler, compact_at=compact_at).sample(llama, prompts(), 4, seed=3)
    assert equal(first, again)
    for a, b in zip(first.logprobs, again.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_every_declared_end_token_ends_an_answer_and_is_its_last_token(llama):
    samples = SharedPrefixSampler(VOCABULARY, DECODING).sample(llama, prompts(), 16, seed=2)
    ended = [ids for ids, why in zip(samples.completion_ids, samples.finish, strict=True) if why == "stop"]
    assert {int(ids[-1]) for ids in ended} == {2, 7}
    assert not np.isin(np.concatenate([ids[:-1] for ids in samples.completion_ids]), [2, 7]).any()
    cut = [
        len(ids) for ids, why in zip(samples.completion_ids, samples.finish, strict=True) if why == "length"
    ]
    assert set(cut) == {20}


def test_all_ends_of_the_generation_config_count(llama):
    before = llama.generation_config.eos_token_id
    llama.generation_config.eos_token_id = list(range(3, 97))
    try:
        samples = SharedPrefixSampler(Vocabulary(), DECODING).sample(llama, prompts(), 2, seed=0)
    finally:
        llama.generation_config.eos_token_id = before
    # All but 0, 1 and 2 end an answer, so every row ends at once but for those three.
    assert set(samples.finish) == {"stop"} and samples.lengths.max() <= 3


def loud(model, token, by=30.0):
    """The policy with one token far likelier than all others."""
    made = type(model)(model.config).eval()
    made.load_state_dict(model.state_dict())
    head = torch.nn.Linear(32, 97)
    head.weight.data.copy_(made.lm_head.weight.data)
    head.bias.data.zero_()[token] = by
    made.lm_head = head
    return made


@pytest.mark.parametrize("token", [1, 96])
def test_a_control_or_phantom_id_is_never_drawn_however_likely_and_the_rest_sums_to_one(llama, token):
    samples = SharedPrefixSampler(VOCABULARY, DECODING).sample(loud(llama, token), prompts(), 2, seed=0)
    assert not np.isin(np.concatenate(samples.completion_ids), BANNED).any()
    for found, right in zip(samples.logprobs, expected(llama, samples), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)  # what is banned leaves the others as they were


def test_an_answer_can_be_ended_at_a_control_token(llama):
    decoding = replace_decoding(control="end")
    samples = SharedPrefixSampler(VOCABULARY, decoding).sample(loud(llama, 1), prompts(), 2, seed=0)
    assert set(samples.finish) == {"control"}
    assert all(ids.tolist() == [1] for ids in samples.completion_ids)


def test_control_tokens_can_be_kept(llama):
    decoding = replace_decoding(control="keep", loop=None)
    samples = SharedPrefixSampler(VOCABULARY, decoding).sample(loud(llama, 1), prompts(), 2, seed=0)
    assert set(samples.finish) == {"length"}
    assert (np.concatenate(samples.completion_ids) == 1).all()


@pytest.mark.parametrize("sampler", [SharedPrefixSampler, GenerateSampler])
def test_a_looping_row_is_ended_where_the_rule_says_and_no_padding_follows(llama, sampler):
    rule = RepetitionDetection(max_pattern_size=4, min_count=4, min_cover=6)
    decoding = replace_decoding(loop=rule)
    samples = sampler(VOCABULARY, decoding).sample(loud(llama, 50), prompts(), 2, seed=0)
    assert set(samples.finish) == {"loop"}
    assert all(ids.tolist() == [50] * 6 for ids in samples.completion_ids)
    assert samples.padded(pad=0).completion_NT.sum() == 6 * 10


def test_all_rows_may_end_with_their_first_token(llama):
    samples = SharedPrefixSampler(VOCABULARY, DECODING).sample(loud(llama, 7), prompts(), 4, seed=0)
    assert samples.lengths.tolist() == [1] * 20 and set(samples.finish) == {"stop"}


def test_top_k_of_one_is_greedy_and_certain(llama):
    samples = SharedPrefixSampler(VOCABULARY, replace_decoding(top_k=1)).sample(llama, prompts(), 2, seed=0)
    assert all((logprobs == 0).all() for logprobs in samples.logprobs)
    ids = np.concatenate([samples.prompt_ids[0], samples.completion_ids[0]])
    with torch.no_grad():
        logits = llama(torch.from_numpy(ids)[None]).logits[0]
    logits[:, BANNED] = -torch.inf
    assert logits.argmax(-1)[4:-1].tolist() == samples.completion_ids[0].tolist()


def test_dropout_is_off_while_sampling_and_every_module_is_as_it_was():
    model = policy("gpt2", resid_pdrop=0.5)
    calm = SharedPrefixSampler(VOCABULARY, DECODING).sample(model, prompts(), 2, seed=0)
    model.train()
    model.transformer.wte.eval()
    assert equal(calm, SharedPrefixSampler(VOCABULARY, DECODING).sample(model, prompts(), 2, seed=0))
    assert model.training and model.transformer.drop.training and not model.transformer.wte.training


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # of transformers, through peft
@pytest.mark.parametrize("sampler", [SharedPrefixSampler, GenerateSampler])
def test_a_policy_of_adapters_is_sampled_with_them_and_left_as_it_was(sampler):
    model = get_peft_model(
        policy("llama"), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    )
    base = model.get_base_model()
    config = base.generation_config
    samples = sampler(VOCABULARY, DECODING).sample(model, prompts(), 2, seed=0)
    for found, right in zip(samples.logprobs, expected(model, samples), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)
    assert base.generation_config is config and model.generation_config is config
    with model.disable_adapter():
        assert not equal(samples, sampler(VOCABULARY, DECODING).sample(model, prompts(), 2, seed=0))


def test_the_generation_config_changes_nothing_but_the_ends_and_stays_as_it_was():
    model = policy("llama")
    first = GenerateSampler(VOCABULARY, DECODING).sample(model, prompts(), 2, seed=0)
    model.generation_config.update(top_k=1, repetition_penalty=3.0, do_sample=True, temperature=0.1)
    config = model.generation_config
    assert equal(first, GenerateSampler(VOCABULARY, DECODING).sample(model, prompts(), 2, seed=0))
    assert model.generation_config is config and config.top_k == 1


def test_a_policy_whose_state_cannot_be_copied_is_sampled_by_generate_and_the_log_says_so(caplog):
    config = MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1, state_size=4, eos_token_id=2)
    model = MambaForCausalLM(config).eval()
    with caplog.at_level(logging.WARNING):
        samples = SharedPrefixSampler(VOCABULARY, DECODING).sample(model, prompts(), 2, seed=0)
    assert "takes no past_key_values: model.generate computes each prompt once per answer" in caplog.text
    for found, right in zip(samples.logprobs, expected(model, samples), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.parametrize(
    "sampler", [SharedPrefixSampler(VOCABULARY, DECODING), GenerateSampler(VOCABULARY, DECODING)]
)
def test_what_cannot_be_sampled_is_refused_in_a_line(llama, sampler):
    def said(error, *arguments):
        with pytest.raises(error) as raised:
            sampler.sample(*arguments)
        return str(raised.value)

    assert said(DataError, llama, [], 1, 0) == "there is no prompt to sample from"
    assert "prompt 1 is empty" in said(DataError, llama, [[5], []], 1, 0)
    assert said(DataError, llama, [[5] * 109], 1, 0) == (
        "prompt 0 has 109 tokens: with 20 new ones it passes the policy's context of 128; "
        "shorten it or max_new_tokens"
    )
    assert "prompt 0 holds id 97 and the policy has 97 ids" in said(DataError, llama, [[5, 97]], 1, 0)
    assert "group is 1 or more" in said(SettingsError, llama, [[5]], 0, 0)
    assert "seed 0 or more" in said(SettingsError, llama, [[5]], 1, -1)
    sampler.sample(llama, [[5] * 108], 1, 0)


def test_a_policy_without_an_end_token_is_refused():
    model = policy("llama")
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    with pytest.raises(ModelError, match="no end token is declared"):
        SharedPrefixSampler().sample(model, prompts(), 2, seed=0)


def test_an_encoder_decoder_is_refused():
    config = T5Config(vocab_size=97, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="encoder-decoder"):
        GenerateSampler().sample(T5ForConditionalGeneration(config), prompts(), 1, seed=0)


def test_a_policy_that_gives_nan_is_refused(llama):
    broken = loud(llama, 50, by=float("nan"))
    with pytest.raises(ModelError, match="logits that are not finite"):
        SharedPrefixSampler(VOCABULARY, DECODING).sample(broken, prompts(), 2, seed=0)
