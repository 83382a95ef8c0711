"""Samplers behind a server: vLLM, which gives ids and log-probabilities, and servers that give text alone.

``POST /v1/completions`` of vLLM takes ``prompt`` as token ids, ``n``, ``logprobs: 0`` (the drawn token's
alone), ``return_token_ids``, ``stop_token_ids``, ``logit_bias`` and ``repetition_detection``. It answers with
``choices[].token_ids``, ``.prompt_token_ids``, ``.logprobs.token_logprobs`` and ``.finish_reason``, which may
be ``repetition`` (vllm-project/vllm ``entrypoints/openai/completion/protocol.py``, ``v1/engine``). Weights go
to ``/init_weight_transfer_engine``, ``/start_weight_update``, ``/update_weights``, ``/finish_weight_update``
(``entrypoints/serve/dev/rlhf/api_router.py``) in the order of TRL 1.16's ``VLLMClient``. Start it with
``VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --weight-transfer-config
'{"backend": "nccl"}'``: raw log-probabilities would be those without temperature and ban.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request as HTTPRequest
from urllib.request import urlopen

import numpy as np
from torch import Tensor

from holdtrue.errors import DataError, ModelError
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.guard import vllm_parameters
from holdtrue.policy.logprobs import rescored
from holdtrue.policy.request import Request, examine
from holdtrue.policy.rows import Rows
from holdtrue.policy.samples import Ids, Samples
from holdtrue.records import Finish

Transfer = Callable[[Iterator[tuple[str, Tensor]]], None]
"""Streams tensors to the workers of an engine; with vLLM the broadcast of its NCCL weight transfer."""


@dataclass(frozen=True)
class VLLMSampler:
    """Draws on a vLLM server that holds the policy's weights; see :meth:`update`.

    The server's log-probabilities are kept as they come: they are those of the draw, and differ from the
    trainer's by the precision of the engine, which the ratio of the loss then corrects.
    """

    url: str
    """Such as ``http://127.0.0.1:8000``."""
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    """Control ids, and end ids beside those the policy declares."""
    decoding: Decoding = field(default_factory=Decoding)
    requests: int = 64
    """Prompts under way at once."""
    limit: float = 600.0
    """Seconds the server may stay silent."""

    def sample(
        self, policy: Any, prompts: Sequence[Sequence[int] | Ids], group: int, seed: int, first: int = 0
    ) -> Samples:
        """See :meth:`Sampler.sample <holdtrue.policy.sampler.Sampler.sample>`; seeds are those of the engine.

        Raises:
            ModelError: the server cannot be reached, refuses, or says something else than documented.
        """
        request = examine(policy, prompts, group, seed, self.vocabulary, self.decoding, first)
        model = _model(self.url, self.limit)
        bodies = [self._body(request, model, place) for place in range(len(request.prompts))]
        rows = request.rows()
        with ThreadPoolExecutor(min(self.requests, len(bodies))) as pool:
            found = pool.map(lambda body: _send(f"{self.url}/v1/completions", body, self.limit), bodies)
            for place, said in enumerate(found):
                self._take(request, place, said, rows)
        return request.samples(rows)

    def update(self, weights: Iterable[tuple[str, Tensor]], transfer: Transfer) -> None:
        """Give the engine the policy's weights, and forget prompts computed with the old ones.

        Args:
            weights: names as the checkpoint has them (of adapters, the merged ones) and tensors.
            transfer: sends the tensors while the workers wait for them.
        """
        held = list(weights)
        info = {
            "names": [name for name, _ in held],
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in held],
            "shapes": [list(tensor.shape) for _, tensor in held],
        }
        self._post("start_weight_update", {})
        self._beside("update_weights", {"update_info": info}, lambda: transfer(iter(held)))
        self._post("finish_weight_update", {})
        self._post("reset_prefix_cache", {})

    def connect(self, address: str, port: int, join: Callable[[Mapping[str, Any]], None]) -> None:
        """Form the group that weights are sent in: the trainer is rank 0, the engine's workers follow.

        Args:
            address, port: where the trainer's side of the group listens.
            join: enters the group on the trainer's side while the workers wait for it.
        """
        workers = _send(f"{self.url}/get_world_size", None, self.limit)["world_size"]
        info = {
            "master_address": address,
            "master_port": port,
            "rank_offset": 1,
            "world_size": workers + 1,
            "packed": True,
        }
        self._beside("init_weight_transfer_engine", {"init_info": info}, lambda: join(info))

    def _post(self, verb: str, body: Mapping[str, Any]) -> Any:
        return _send(f"{self.url}/{verb}", body, self.limit)

    def _beside(self, verb: str, body: Mapping[str, Any], act: Callable[[], None]) -> None:
        """The engine answers only when the trainer has acted too."""
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self._post, verb, body)
            act()
            answer.result()

    def _body(self, request: Request, model: str, place: int) -> dict[str, Any]:
        decoding = self.decoding
        guard = vllm_parameters(request.vocabulary, request.width, decoding.loop)
        if decoding.loop is None:
            del guard["repetition_detection"]
        if decoding.control != "ban":
            del guard["logit_bias"]
        if decoding.control == "end":
            guard["stop_token_ids"] += request.vocabulary.banned(request.width).tolist()
        return {
            "model": model,
            "prompt": request.prompts[place].tolist(),
            "n": request.group,
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": decoding.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": _seed(request.seed, request.first + place),
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
            **guard,
        }

    def _take(self, request: Request, place: int, said: Any, rows: Rows) -> None:
        """Check a prompt's answers and write them into its rows."""
        try:
            choices = sorted(said["choices"], key=lambda choice: choice["index"])
            found = [
                (
                    c["prompt_token_ids"],
                    list(c["token_ids"]),
                    list(c["logprobs"]["token_logprobs"]),
                    c["finish_reason"],
                )
                for c in choices
            ]
        except (KeyError, TypeError) as error:
            raise ModelError(
                f"{self.url} gives no ids with log-probabilities ({error!r}); is it vLLM 0.17 or later?"
            ) from error
        if len(found) != request.group:
            raise ModelError(f"{self.url} gives {len(found)} answers where {request.group} were asked for")
        for answer, (prompt, ids, logprobs, reason) in enumerate(found):
            if prompt != request.prompts[place].tolist():
                raise ModelError(f"{self.url} read prompt {place} as other ids than it was sent")
            if reason not in ("stop", "length", "repetition"):
                raise ModelError(f"{self.url} broke off an answer to prompt {place}: {reason}")
            if len(ids) != len(logprobs) or not ids or None in logprobs:
                raise ModelError(
                    f"{self.url} gives {len(ids)} tokens and {len(logprobs)} log-probabilities for an answer "
                    f"to prompt {place}"
                )
            replay(rows, place * request.group + answer, ids, logprobs)
            rows.settle(place * request.group + answer, "loop" if reason == "repetition" else reason)


@dataclass(frozen=True)
class TextServerSampler:
    """Draws on a completions server that gives text alone: ``transformers serve`` and most hosted ones.

    The text is tokenised again and scored by a forward of ``policy``, so samples are marked not ``exact``:
    text does not say which of several tokenisations was drawn, special tokens are missing from it, and an end
    token in the last place counts as ``length``.
    ``policy`` must be the weights the server holds; where those are older than the ones in training, give the
    older ones here, and the ratio of the loss weighs the samples by new over old.

    One answer a request: ``transformers serve`` takes no ``n``. Its field ``generation_config`` (a JSON text)
    carries the ban, the end ids and the sampling; other servers do without, see ``extended``.
    """

    url: str
    """Such as ``http://127.0.0.1:8000``."""
    model: str
    """Its name on the server; of ``transformers serve`` what it was started with."""
    tokenizer: Any
    """The policy's."""
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    """Control ids, and end ids beside those the policy declares."""
    decoding: Decoding = field(default_factory=Decoding)
    extended: bool = True
    """Send ``generation_config``, which servers other than ``transformers serve`` refuse or do not read."""
    limit: float = 600.0
    """Seconds the server may stay silent."""

    def sample(
        self, policy: Any, prompts: Sequence[Sequence[int] | Ids], group: int, seed: int, first: int = 0
    ) -> Samples:
        """See :meth:`Sampler.sample <holdtrue.policy.sampler.Sampler.sample>`; seeds are those of the server.

        Raises:
            DataError: a prompt whose text the server would read as other ids.
            ModelError: the server cannot be reached, refuses, or says something else than documented.
        """
        request = examine(policy, prompts, group, seed, self.vocabulary, self.decoding, first)
        texts = [self._text(place, prompt) for place, prompt in enumerate(request.prompts)]
        answers, reasons = [], []
        for row in range(len(texts) * group):
            body = self._body(request, texts[row // group], _seed(seed, first * group + row))
            ids, reason = self._read(request, _send(f"{self.url}/v1/completions", body, self.limit))
            answers.append(ids)
            reasons.append(reason)
        befores = [request.prompts[row // group] for row in range(len(answers))]
        logprobs = rescored(policy, befores, answers, self.decoding, request.banned)
        rows = request.rows()
        for row, (ids, values, reason) in enumerate(zip(answers, logprobs, reasons, strict=True)):
            # A token that is never drawn here was made by tokenising again; its probability is nil.
            replay(rows, row, ids, np.maximum(values, np.finfo(np.float32).min))
            rows.settle(row, reason)
        return request.samples(rows, exact=False)

    def _body(self, request: Request, text: str, seed: int) -> dict[str, Any]:
        decoding = self.decoding
        body = {
            "model": self.model,
            "prompt": text,
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": seed,
        }
        if self.extended:
            config = {
                "do_sample": True,
                "top_k": decoding.top_k,
                "eos_token_id": sorted(request.vocabulary.eos),
                "pad_token_id": min(request.vocabulary.eos),
                "suppress_tokens": request.banned.tolist() or None,
                "repetition_penalty": 1.0,
            }
            body["generation_config"] = json.dumps(config)
        return body

    def _text(self, place: int, prompt: Ids) -> str:
        """The text that the server's tokenizer, which is ours, reads as the prompt."""
        for ids in (prompt, prompt[1:]):  # the tokenizer may put BOS in front by itself
            text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
            if self.tokenizer(text).input_ids == prompt.tolist():
                return text
        raise DataError(
            f"prompt {place} has no text that is read as the same {len(prompt)} ids, and the server takes "
            "text alone"
        )

    def _read(self, request: Request, said: Any) -> tuple[Ids, Finish]:
        """An answer's ids, with an end token where it ended by itself, and why it ended."""
        try:
            choice = said["choices"][0]
            text, reason = choice["text"], choice["finish_reason"]
        except (KeyError, TypeError, IndexError) as error:
            raise ModelError(f"{self.url} gives no text with a finish_reason ({error!r})") from error
        if reason not in ("stop", "length"):
            raise ModelError(f"{self.url} broke off an answer: {reason}")
        ids = self.tokenizer(text, add_special_tokens=False).input_ids[: self.decoding.max_new_tokens]
        if reason == "stop" and len(ids) < self.decoding.max_new_tokens:
            own = self.tokenizer.eos_token_id
            ids = [*ids, own if own in request.vocabulary.eos else min(request.vocabulary.eos)]
        return np.array(ids, dtype=np.int64), reason


def replay(rows: Rows, row: int, ids: Sequence[int] | Ids, logprobs: Any) -> None:
    """Write an answer that is drawn already into a row; what comes after its end or loop is left out."""
    at = np.array([row])
    for token, logprob in zip(ids, logprobs, strict=True):
        if not rows.running[row]:
            return
        rows.update(at, np.array([token]), np.array([logprob], dtype=np.float32))


def _seed(seed: int, place: int) -> int:
    """A seed of 31 bits for a request, another one for each."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0] >> 1)


def _model(url: str, limit: float) -> str:
    """Name of the first model that a server lists."""
    said = _send(f"{url}/v1/models", None, limit)
    try:
        return str(said["data"][0]["id"])
    except (KeyError, TypeError, IndexError):
        raise ModelError(f"{url} names no model at /v1/models") from None


def _send(url: str, body: Mapping[str, Any] | None, limit: float) -> Any:
    """POST a body as JSON, or GET, and read the JSON that comes back.

    Raises:
        ModelError: the server cannot be reached, refuses, or says no JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    request = HTTPRequest(url, data, {"Content-Type": "application/json", "Accept": "application/json"})
    try:
        with urlopen(request, timeout=limit) as response:
            said = response.read()
    except HTTPError as error:
        with error:
            text = " ".join(error.read(300).decode(errors="replace").split())
        raise ModelError(f"{url} answers {error.code} {error.reason}: {text}") from error
    except (URLError, OSError, HTTPException) as error:
        raise ModelError(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from error
    try:
        return json.loads(said) if said else None
    except ValueError as error:
        raise ModelError(f"{url} says no JSON but {said[:80]!r}") from error
