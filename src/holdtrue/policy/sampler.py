"""Groups of answers with each prompt computed once: the sampler of the loop.

Every sampler has one method, :meth:`Sampler.sample`, and gives :class:`~holdtrue.policy.samples.Samples`.
:class:`SharedPrefixSampler` is the fast one, for decoders; what it cannot take is sampled by
:class:`~holdtrue.policy.generate.GenerateSampler`: the same tokens, a prompt computed per answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.cache import roomy
from holdtrue.policy.decoding import Decoding, draw
from holdtrue.policy.generate import GenerateSampler
from holdtrue.policy.request import Request, accepted, evaluating, examine, left_padded
from holdtrue.policy.rows import Rows
from holdtrue.policy.samples import Ids, Samples

_log = logging.getLogger(__name__)


class Sampler(Protocol):
    """Draws answers from a policy."""

    def sample(
        self, policy: Any, prompts: Sequence[Sequence[int] | Ids], group: int, seed: int, first: int = 0
    ) -> Samples:
        """``group`` answers to each of ``prompts`` (token ids, as the policy reads them).

        Equal seeds give equal samples. The samplers that compute here draw row (p, g) by the seed, p and g
        alone: neither the other prompts nor how many are computed at once change it, but for float rounding,
        which moves about one token in a million. Prompts are numbered from ``first``, so that processes may
        draw a part each.

        Raises:
            SettingsError: a group of fewer than one answer, or a negative seed.
            DataError: no prompt, an empty one, one with no room in the context, ids the policy has not.
            ModelError: no end token is declared, or the policy gives logits that are not finite.
        """
        ...


@dataclass(frozen=True)
class SharedPrefixSampler:
    """Computes each different prompt once, then all answers side by side from copies of its cache.

    Log-probabilities equal those of a full forward to 1e-5 in float32, also for uneven prompts (padded on
    the left) and with sliding windows. Policies it cannot take (see :func:`unshareable`) go to
    ``model.generate``, and the log says why.
    """

    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    """Control ids, and end ids beside those the policy declares."""
    decoding: Decoding = field(default_factory=Decoding)
    max_rows: int = 256
    """Answers computed at once; a group stays whole even when it is larger."""
    compact_at: float = 0.125
    """Share of the rows in the cache that have ended at which they are taken out of it; above 1: never.
    Taking them out costs a copy of the cache, as every step does."""

    def sample(
        self, policy: Any, prompts: Sequence[Sequence[int] | Ids], group: int, seed: int, first: int = 0
    ) -> Samples:
        """See :meth:`Sampler.sample`."""
        if why := unshareable(policy):
            _say(f"{why}: model.generate computes each prompt once per answer")
            plain = GenerateSampler(self.vocabulary, self.decoding, self.max_rows)
            return plain.sample(policy, prompts, group, seed, first)
        request = examine(policy, prompts, group, seed, self.vocabulary, self.decoding, first)
        rows, uniforms = request.rows(), request.uniforms()
        banned = torch.from_numpy(request.banned).to(policy.device)
        with torch.no_grad(), evaluating(policy):
            for batch in request.batches(self.max_rows):
                self._decode(policy, request, batch, rows, uniforms, banned)
        return request.samples(rows)

    def _decode(
        self, policy: Any, request: Request, batch: list[int], rows: Rows, uniforms: Any, banned: Tensor
    ) -> None:
        """Draw the answers to the prompts in ``batch``."""
        different = {request.prompts[p].tobytes(): request.prompts[p] for p in batch}
        places = {key: place for place, key in enumerate(different)}
        cached = _Cached(policy)
        logits = cached.read(*left_padded(list(different.values()), policy.device))
        prompt_of = np.repeat([places[request.prompts[p].tobytes()] for p in batch], request.group)
        copies = torch.from_numpy(prompt_of).to(policy.device)
        cached.select(copies)
        logits = logits[copies]
        held = np.concatenate([np.arange(request.group) + p * request.group for p in batch])
        while True:
            logprobs = self.decoding.distribution(logits, banned)
            running = rows.running[held]
            tokens, chosen = draw(logprobs, uniforms[held, np.where(running, rows.lengths[held], 0)])
            drawn, said = tokens.cpu().numpy(), chosen.cpu().numpy()
            rows.update(held[running], drawn[running], said[running])
            left = np.flatnonzero(rows.running[held])
            if not len(left):
                return
            ended = len(held) - len(left)
            if ended and ended >= self.compact_at * len(held):
                kept = torch.from_numpy(left).to(policy.device)
                cached.select(kept)
                held, tokens = held[left], tokens[kept]
            logits = cached.read(tokens[:, None])


@cache
def _say(what: str) -> None:
    """Log it, once."""
    _log.warning(what)


class _Cached:
    """A policy that reads on from what its R rows have read."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._cache = roomy(policy.config)
        self._attention: Tensor | None = None
        self._next: Tensor
        takes = accepted(policy)
        self._positions = "position_ids" in takes
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def read(self, ids_RT: Tensor, attention_RT: Tensor | None = None) -> Tensor:
        """Logits (R, V) after these tokens; ``attention_RT`` only with the first, False where padded."""
        if attention_RT is not None:
            positions = (attention_RT.cumsum(-1) - 1).clamp(min=0)
            self._next = attention_RT.sum(-1)
            # Without padding the mask is left out, so that attention takes its fast path.
            needed = not self._positions or not bool(attention_RT.all())
            self._attention = attention_RT.long() if needed else None
        else:
            positions = self._next[:, None]
            self._next = self._next + 1
            if self._attention is not None:
                more = self._attention.new_ones(len(ids_RT), 1)
                self._attention = torch.cat([self._attention, more], dim=1)
        out = self._policy(
            input_ids=ids_RT,
            attention_mask=self._attention,
            past_key_values=self._cache,
            use_cache=True,
            **({"position_ids": positions} if self._positions else {}),
            **self._options,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, any of them several times."""
        self._cache.batch_select_indices(rows)
        self._next = self._next[rows]
        if self._attention is not None:
            self._attention = self._attention[rows]


def unshareable(policy: Any) -> str | None:
    """Why the policy's cache cannot be copied for several answers; None where it can.

    It can when every layer keeps plain keys and values, all of them or those in a sliding window. State
    spaces and linear attention keep states that padding enters; chunked attention and positions of several
    axes count from where a row begins.
    """
    config = policy.config.get_text_config()
    if "past_key_values" not in accepted(policy):
        return f"{type(policy).__name__} takes no past_key_values"
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "its attention is chunked"
    if "mrope_section" in (getattr(config, "rope_parameters", None) or {}):
        return "its positions have several axes"
    try:
        layers = DynamicCache(config=policy.config).layers
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"transformers makes no cache for {type(policy).__name__} ({error!r})"
    odd = {
        type(layer).__name__
        for layer in layers
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)
    }
    return f"its cache holds {', '.join(sorted(odd))}" if odd else None
