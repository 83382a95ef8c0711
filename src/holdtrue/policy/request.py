"""What a sampler is asked for, checked before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdtrue.errors import DataError, ModelError, SettingsError
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import Decoding, declared_ends, uniforms
from holdtrue.policy.rows import Rows
from holdtrue.policy.samples import Ids, Samples


@dataclass(frozen=True)
class Request:
    """G answers to each of P prompts.

    Attributes:
        prompts: P rows of ids, none of them empty.
        group: G.
        seed: of the draws.
        decoding: how tokens are drawn.
        vocabulary: its ``eos`` are all the ids that end an answer, those the policy declares among them.
        width: ids the policy has logits for.
        first: number of the first prompt, where these are some of a step's.
    """

    prompts: tuple[Ids, ...]
    group: int
    seed: int
    decoding: Decoding
    vocabulary: Vocabulary
    width: int
    first: int = 0

    @property
    def banned(self) -> Ids:
        """Ids that are never drawn."""
        none = np.zeros(0, dtype=np.int64)
        return self.vocabulary.banned(self.width) if self.decoding.control == "ban" else none

    def uniforms(self) -> NDArray[np.float64]:
        """(N, ``max_new_tokens``) the numbers that decide what is drawn."""
        tokens = self.decoding.max_new_tokens
        return uniforms(self.seed, len(self.prompts), self.group, tokens, self.first)

    def rows(self) -> Rows:
        """N rows without a token."""
        return Rows(len(self.prompts) * self.group, self.decoding, self.vocabulary, self.width)

    def batches(self, most: int, *, even: bool = False) -> Iterator[list[int]]:
        """Prompts, by their index, whose answers are computed together: ``most`` answers or one group.

        Prompts of like length stand together, to be padded less, with ``even`` only those of one length; and
        equal prompts stand together to be computed once.
        """
        lengths = [len(prompt) for prompt in self.prompts]
        order = sorted(range(len(lengths)), key=lambda p: (lengths[p], self.prompts[p].tolist()))
        for _, places in groupby(order, key=lambda p: lengths[p] if even else 0):
            alike = list(places)
            size = max(1, most // self.group)
            yield from (alike[start : start + size] for start in range(0, len(alike), size))

    def samples(self, rows: Rows, *, exact: bool = True) -> Samples:
        """What the rows became."""
        return Samples(self.prompts, self.group, rows.completion_ids, rows.logprobs, rows.finish, exact)


def examine(
    policy: Any,
    prompts: Sequence[Sequence[int] | Ids],
    group: int,
    seed: int,
    vocabulary: Vocabulary,
    decoding: Decoding,
    first: int = 0,
) -> Request:
    """Check what a sampler was given; see :meth:`~holdtrue.policy.sampler.Sampler.sample`.

    Raises:
        SettingsError: a group of fewer than one answer, or a negative seed.
        DataError, ModelError: as the sampler's.
    """
    if group < 1 or seed < 0:
        raise SettingsError(f"group is 1 or more and seed 0 or more; seen group {group} and seed {seed}")
    config = policy.config.get_text_config()
    if getattr(policy.config, "is_encoder_decoder", False):
        raise ModelError(
            "the policy is an encoder-decoder; samplers take decoders, which continue their prompt"
        )
    ends = vocabulary.eos | declared_ends(policy)
    if not ends:
        raise ModelError(
            "no end token is declared, so no answer would end; set eos_token_id in generation_config.json"
        )
    if not len(prompts):
        raise DataError("there is no prompt to sample from")
    rows = tuple(np.asarray(prompt, dtype=np.int64) for prompt in prompts)
    context = getattr(config, "max_position_embeddings", None)
    for place, prompt in enumerate(rows):
        if not len(prompt):
            raise DataError(f"prompt {place} is empty; a policy continues at least one token, such as BOS")
        if context is not None and len(prompt) + decoding.max_new_tokens > context:
            raise DataError(
                f"prompt {place} has {len(prompt)} tokens: with {decoding.max_new_tokens} new ones it passes "
                f"the policy's context of {context}; shorten it or max_new_tokens"
            )
        if prompt.min() < 0 or prompt.max() >= config.vocab_size:
            odd = prompt[(prompt < 0) | (prompt >= config.vocab_size)][0]
            raise DataError(
                f"prompt {place} holds id {odd} and the policy has {config.vocab_size} ids; was it made by "
                "another model's tokenizer?"
            )
    complete = replace(vocabulary, eos=ends)
    return Request(rows, group, seed, decoding, complete, config.vocab_size, first)


@contextmanager
def evaluating(policy: Any) -> Iterator[None]:
    """The policy without dropout; afterwards each of its modules is as it was."""
    training = [module for module in policy.modules() if module.training]
    policy.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def left_padded(prompts: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (P, T) and attention (P, T), False where padded; every prompt ends in the last column."""
    width = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), width), dtype=np.int64)
    attention = np.zeros((len(prompts), width), dtype=np.bool_)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        attention[row, width - len(prompt) :] = True
    return torch.from_numpy(ids).to(device), torch.from_numpy(attention).to(device)


def accepted(policy: Any) -> Mapping[str, inspect.Parameter]:
    """Arguments of the forward."""
    return inspect.signature(unwrapped(policy).forward).parameters


def unwrapped(policy: Any) -> Any:
    """The model below, where adapters wrap it."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy
