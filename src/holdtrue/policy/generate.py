"""The sampler for any policy: ``model.generate``, with the same draws, ends and guard as the fast one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import Decoding, draw
from holdtrue.policy.request import evaluating, examine, unwrapped
from holdtrue.policy.rows import Rows
from holdtrue.policy.samples import Ids, Samples


@dataclass(frozen=True)
class GenerateSampler:
    """Lets ``model.generate`` keep the cache, and draws and ends the rows itself.

    Only prompts of one length are computed together, since not every policy is blind to padding, and what
    ``generate`` fills short answers up with is never part of them. Log-probabilities are those of the draw,
    and equal seeds give the answers of
    :class:`~holdtrue.policy.sampler.SharedPrefixSampler`. What the policy's generation config sets beside its
    end tokens (top_k, penalties, ...) is not used: it would make what is sampled another policy.
    """

    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    """Control ids, and end ids beside those the policy declares."""
    decoding: Decoding = field(default_factory=Decoding)
    max_rows: int = 256
    """Answers computed at once; a group stays whole even when it is larger."""

    def sample(
        self, policy: Any, prompts: Sequence[Sequence[int] | Ids], group: int, seed: int, first: int = 0
    ) -> Samples:
        """See :meth:`Sampler.sample <holdtrue.policy.sampler.Sampler.sample>`."""
        request = examine(policy, prompts, group, seed, self.vocabulary, self.decoding, first)
        rows, uniforms = request.rows(), request.uniforms()
        banned = torch.from_numpy(request.banned).to(policy.device)
        with torch.no_grad(), evaluating(policy), _plain(policy, self.decoding.max_new_tokens):
            for batch in request.batches(self.max_rows, even=True):
                held = np.concatenate([np.arange(group) + p * group for p in batch])
                ids = torch.from_numpy(np.stack([request.prompts[p] for p in batch])).to(policy.device)
                drawing = _Drawing(self.decoding, rows, held, uniforms, banned)
                policy.generate(
                    input_ids=ids.repeat_interleave(group, dim=0),
                    attention_mask=torch.ones_like(ids).repeat_interleave(group, dim=0),
                    logits_processor=LogitsProcessorList([drawing]),
                    stopping_criteria=StoppingCriteriaList([_Ended(rows, held)]),
                )
        return request.samples(rows)


class _Drawing(LogitsProcessor):  # type: ignore[misc]
    """Draws the next token of each row and leaves ``generate`` no other choice."""

    def __init__(
        self, decoding: Decoding, rows: Rows, held: Ids, uniforms: NDArray[np.float64], banned: Tensor
    ) -> None:
        self._decoding, self._rows, self._held = decoding, rows, held
        self._uniforms, self._banned = uniforms, banned

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logprobs = self._decoding.distribution(scores, self._banned)
        running = self._rows.running[self._held]
        at = np.where(running, self._rows.lengths[self._held], 0)
        tokens, chosen = draw(logprobs, self._uniforms[self._held, at])
        drawn, said = tokens.cpu().numpy(), chosen.cpu().numpy()
        self._rows.update(self._held[running], drawn[running], said[running])
        return torch.full_like(scores, float("-inf")).scatter(-1, tokens[:, None], 0.0)


class _Ended(StoppingCriteria):  # type: ignore[misc]
    """Says which rows have ended."""

    def __init__(self, rows: Rows, held: Ids) -> None:
        self._rows, self._held = rows, held

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> Tensor:
        return torch.from_numpy(~self._rows.running[self._held]).to(input_ids.device)


@contextmanager
def _plain(policy: Any, new_tokens: int) -> Iterator[None]:
    """A generation config that changes no logits; ``generate`` takes unset fields from the model's own."""
    holders = [policy, unwrapped(policy)]  # peft hands the config of the one to the other
    before = [holder.generation_config for holder in holders]
    plain = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, use_cache=True)
    try:
        for holder in holders:
            holder.generation_config = plain
        yield
    finally:
        for holder, config in zip(holders, before, strict=True):
            holder.generation_config = config
