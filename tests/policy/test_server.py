import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from transformers.utils.import_utils import is_serve_available

from holdtrue.errors import DataError, ModelError
from holdtrue.health.stream import RepetitionDetection
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.logprobs import rescored
from holdtrue.policy.sampler import SharedPrefixSampler
from holdtrue.policy.server import TextServerSampler, VLLMSampler
from policy_models import policy

VOCABULARY = Vocabulary(control=frozenset({0, 1}), size=97)
RULE = RepetitionDetection(max_pattern_size=4, min_count=4, min_cover=16)
DECODING = Decoding(max_new_tokens=6, loop=RULE)
PROMPTS = [[5, 6, 7], [8]]


class Engine(BaseHTTPRequestHandler):
    """Speaks the JSON vLLM documents; what it says to a completion is ``server.says(body)``."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.heard.append((self.path, None))
        said = {"/v1/models": {"data": [{"id": "tiny"}]}, "/get_world_size": {"world_size": 2}}
        self.answer(said[self.path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.heard.append((self.path, body))
        if self.path == "/v1/completions":
            self.answer(self.server.says(body))
        else:
            if self.path in ("/update_weights", "/init_weight_transfer_engine"):
                self.server.trainer.wait(10)  # the workers wait for the trainer's side
            self.answer({"message": "done"})

    def answer(self, said):
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def engine():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    server.heard, server.trainer = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def llama():
    return policy("llama")


def choice(prompt, index, ids, reason, **changes):
    """As vLLM's CompletionResponseChoice (entrypoints/openai/completion/protocol.py)."""
    return {
        "index": index,
        "text": "",
        "logprobs": {
            "text_offset": [0] * len(ids),
            "token_logprobs": [-0.5 * (i + 1) for i in range(len(ids))],
            "tokens": ["x"] * len(ids),
            "top_logprobs": [{"x": -0.5}] * len(ids),
        },
        "finish_reason": reason,
        "stop_reason": None,
        "prompt_token_ids": prompt,
        "token_ids": ids,
    } | changes


def test_vllm_is_asked_for_ids_log_probabilities_ends_bans_and_the_repetition_stop(engine, llama):
    engine.says = lambda body: {"choices": [choice(body["prompt"], i, [9, 2], "stop") for i in range(2)]}
    VLLMSampler(engine.url, VOCABULARY, DECODING).sample(llama, PROMPTS, 2, seed=4)
    assert engine.heard[0] == ("/v1/models", None)
    bodies = sorted((body for path, body in engine.heard[1:]), key=lambda body: -len(body["prompt"]))
    assert [body["prompt"] for body in bodies] == PROMPTS
    seeds = [body.pop("seed") for body in bodies]
    assert len(set(seeds)) == 2 and all(0 <= seed < 2**31 for seed in seeds)
    assert bodies[0] == {
        "model": "tiny",
        "prompt": [5, 6, 7],
        "n": 2,
        "max_tokens": 6,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": 0,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "stop_token_ids": [2],
        "logit_bias": {"0": -100.0, "1": -100.0},
        "repetition_detection": {"max_pattern_size": 4, "min_pattern_size": 4, "min_count": 4},
    }


def test_vllm_gives_ids_and_log_probabilities_as_they_were_drawn(engine, llama):
    answers = {
        (5, 6, 7): [([9, 2], "stop"), ([9, 10, 11, 12, 13, 14], "length")],
        (8,): [([20, 20, 20], "repetition"), ([2], "stop")],
    }

    def says(body):
        made = [choice(body["prompt"], i, *found) for i, found in enumerate(answers[tuple(body["prompt"])])]
        return {"choices": made[::-1]}  # in any order: index says which

    engine.says = says
    samples = VLLMSampler(engine.url, VOCABULARY, DECODING).sample(llama, PROMPTS, 2, seed=4)
    assert [ids.tolist() for ids in samples.completion_ids] == [ids for a in answers.values() for ids, _ in a]
    assert samples.finish == ["stop", "length", "loop", "stop"]
    assert samples.logprobs[1].tolist() == [-0.5, -1.0, -1.5, -2.0, -2.5, -3.0]
    assert samples.exact


def test_an_engine_may_be_told_to_end_at_control_tokens_or_to_watch_for_nothing(engine, llama):
    engine.says = lambda body: {"choices": [choice(body["prompt"], 0, [9, 1], "stop")]}
    decoding = Decoding(max_new_tokens=6, loop=None, control="end")
    samples = VLLMSampler(engine.url, VOCABULARY, decoding).sample(llama, PROMPTS[:1], 1, seed=4)
    body = engine.heard[-1][1]
    assert body["stop_token_ids"] == [2, 0, 1]
    assert "logit_bias" not in body and "repetition_detection" not in body
    assert samples.finish == ["control"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": None}, "gives no ids with log-probabilities"),
        ({"logprobs": None}, "gives no ids with log-probabilities"),
        ({"finish_reason": "abort"}, "broke off an answer to prompt 0: abort"),
        ({"prompt_token_ids": [1, 5, 6, 7]}, "read prompt 0 as other ids"),
        ({"token_ids": [9]}, "gives 1 tokens and 2 log-probabilities"),
        (
            {"token_ids": [9, 9]},
            "the engine says stop after 2 tokens, and the last of them is none of the end",
        ),
    ],
)
def test_an_engine_that_says_something_else_is_refused(engine, llama, changes, message):
    engine.says = lambda body: {"choices": [choice([5, 6, 7], 0, [9, 2], "stop", **changes)]}
    with pytest.raises(ModelError, match=message):
        VLLMSampler(engine.url, VOCABULARY, DECODING).sample(llama, PROMPTS[:1], 1, seed=4)


def test_a_server_that_is_not_there_is_one_line(llama):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ModelError, match=r"/v1/models cannot be reached: .*refused"):
        VLLMSampler(url, VOCABULARY, DECODING).sample(llama, PROMPTS, 1, seed=0)


def test_weights_are_announced_then_streamed_then_old_prompts_are_forgotten(engine, llama):
    sampler = VLLMSampler(engine.url, VOCABULARY, DECODING)
    joined, sent = [], []
    sampler.connect("10.0.0.1", 51216, lambda info: (joined.append(dict(info)), engine.trainer.set()))
    engine.trainer.clear()
    sampler.update(
        llama.named_parameters(), lambda held: (sent.extend(name for name, _ in held), engine.trainer.set())
    )
    info = {
        "master_address": "10.0.0.1",
        "master_port": 51216,
        "rank_offset": 1,
        "world_size": 3,  # two workers and the trainer
        "packed": True,
    }
    names = [name for name, _ in llama.named_parameters()]
    assert joined == [info] and sent == names
    assert engine.heard[:2] == [
        ("/get_world_size", None),
        ("/init_weight_transfer_engine", {"init_info": info}),
    ]
    assert [path for path, _ in engine.heard[2:]] == [
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/reset_prefix_cache",
    ]
    update = engine.heard[3][1]["update_info"]
    assert update["names"] == names and set(update["dtype_names"]) == {"float32"}
    assert update["shapes"] == [list(p.shape) for p in llama.parameters()]


# A server of text alone


@pytest.fixture
def speaking(byte_tokenizer):
    """A byte tokenizer whose turns end with 1, and a policy of its 259 ids."""
    model = policy("llama", vocab_size=259)
    model.generation_config.eos_token_id = model.config.eos_token_id = 1
    model.generation_config.pad_token_id = model.config.pad_token_id = 2
    return byte_tokenizer(), model


def test_text_is_tokenised_again_scored_and_marked_not_exact(engine, speaking):
    tokenizer, model = speaking
    said = iter([("ab", "stop"), ("abcdef", "length"), ("", "stop"), ("", "length")])

    def says(body):
        text, reason = next(said)
        return {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}

    engine.says = says
    prompts = [tokenizer("<|im_start|>hi").input_ids, tokenizer("yo").input_ids]
    sampler = TextServerSampler(engine.url, "tiny", tokenizer, Vocabulary.of(tokenizer), DECODING)
    samples = sampler.sample(model, prompts, 2, seed=0)
    ids = tokenizer("abcdef").input_ids
    assert [row.tolist() for row in samples.completion_ids] == [[*ids[:2], 1], ids, [1], []]
    assert samples.finish == ["stop", "length", "stop", "length"] and not samples.exact
    befores = [samples.prompt_ids[p] for p in samples.prompt_of]
    banned = np.array([0, 2])
    for found, right in zip(
        samples.logprobs, rescored(model, befores, samples.completion_ids, DECODING, banned), strict=True
    ):
        np.testing.assert_array_equal(found, right)
    bodies = [body for path, body in engine.heard if path == "/v1/completions"]
    assert [body["prompt"] for body in bodies] == ["<|im_start|>hi"] * 2 + ["yo"] * 2
    assert len({body["seed"] for body in bodies}) == 4
    assert json.loads(bodies[0]["generation_config"]) == {
        "do_sample": True,
        "top_k": 0,
        "eos_token_id": [1],
        "pad_token_id": 1,
        "suppress_tokens": [0, 2],
        "repetition_penalty": 1.0,
    }
    assert all(rollout.meta == {"exact": False} for rollout in samples.rollouts(["a", "b"], tokenizer))


def test_a_prompt_that_no_text_is_read_as_is_refused(engine, speaking):
    tokenizer, model = speaking
    split = [255, 254, 253]  # bytes that are no UTF-8
    with pytest.raises(DataError, match="prompt 0 has no text that is read as the same 3 ids"):
        TextServerSampler(engine.url, "tiny", tokenizer, Vocabulary.of(tokenizer), DECODING).sample(
            model, [split], 1, 0
        )


@pytest.fixture
def serving(tmp_path, speaking):
    """The real ``transformers serve`` on this policy."""
    if not is_serve_available():
        pytest.skip("transformers serve needs fastapi, uvicorn and openai: pip install transformers[serving]")
    tokenizer, model = speaking
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(480):
            if process.poll() is not None:
                pytest.fail(f"transformers serve ended: {process.stderr.read().decode()[-800:]}")
            try:
                urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.25)
        yield url, str(tmp_path)
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def test_transformers_serve_is_a_sampler_and_weights_correct_for_a_policy_that_moved_on(serving, speaking):
    """E_new[f] = E_old[f new / old], over the first byte of an answer."""
    tokenizer, old = speaking
    letters = tokenizer("abcdefgh").input_ids
    others = frozenset(range(259)) - frozenset(letters) - {1}
    vocabulary = Vocabulary(eos=frozenset({1}), control=others)
    decoding = Decoding(max_new_tokens=2)
    prompt = tokenizer("hello").input_ids
    sampler = TextServerSampler(*serving, tokenizer, vocabulary, decoding)
    samples = sampler.sample(old, [prompt], 150, seed=0)
    drawn = np.array([ids[0] for ids in samples.completion_ids])
    assert set(drawn.tolist()) <= {*letters, 1}, "the server keeps the ban"
    again = sampler.sample(old, [prompt], 3, seed=0)
    assert [a.tolist() for a in again.completion_ids] == [a.tolist() for a in samples.completion_ids[:3]]

    new = policy("llama", vocab_size=259)
    new.generation_config.eos_token_id = 1
    with torch.no_grad():
        new.lm_head.weight.mul_(0.5)
    banned = vocabulary.banned(259)
    everything = [np.array([i]) for i in [*letters, 1]]
    befores = [np.array(prompt)] * len(everything)
    p_old, p_new = (
        np.exp(np.concatenate(rescored(model, befores, everything, decoding, banned))) for model in (old, new)
    )
    assert p_old.sum() == pytest.approx(1, abs=1e-5) and p_new.sum() == pytest.approx(1, abs=1e-5)
    written = np.array([row[0] for row in samples.logprobs])
    place = [[int(i[0]) for i in everything].index(token) for token in drawn]
    np.testing.assert_allclose(written, np.log(p_old)[place], atol=1e-5)
    likeliest = int(p_old.argmax())
    hit = np.array(place) == likeliest
    ratio = p_new[place] / np.exp(written)
    error = np.sqrt((p_new**2 / p_old).sum() / 150)  # an upper bound of the standard error
    assert abs((hit * ratio).mean() - p_new[likeliest]) < 3 * error
    assert abs(p_old[likeliest] - p_new[likeliest]) > 0.05, "the policies must differ to show anything"


def test_transformers_serve_writes_text_that_is_read_as_what_was_drawn_in_most_rows(serving, speaking):
    tokenizer, model = speaking
    printable = frozenset(tokenizer(" abcdefghijklmnopqrstuvwxyz").input_ids)
    vocabulary = Vocabulary(eos=frozenset({1}), control=frozenset(range(259)) - printable - {1})
    sampler = TextServerSampler(*serving, tokenizer, vocabulary, Decoding(max_new_tokens=12))
    samples = sampler.sample(model, [tokenizer("hello").input_ids], 4, seed=1)
    assert not np.isin(np.concatenate(samples.completion_ids), vocabulary.banned(259)).any()
    assert all(np.isfinite(row).all() and (row <= 0).all() for row in samples.logprobs)
    # In bytes a text has one tokenisation, so rows are as long as those drawn here.
    here = SharedPrefixSampler(vocabulary, Decoding(max_new_tokens=12)).sample(
        model, [tokenizer("hello").input_ids], 4, seed=1
    )
    assert (
        set(samples.finish)
        <= {
            "stop",
            "length",
        }
        and samples.lengths.max() <= here.lengths.max() + 12
    )
