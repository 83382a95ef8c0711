"""Answers of a policy to prompts of the rounds, and how much likelier they are than under the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.causal import load_policy
from holdtrue.policy.decoding import declared_ends
from holdtrue.policy.prompts import Prompts, encode, read_prompts
from holdtrue.policy.sampler import SharedPrefixSampler
from holdtrue.policy.samples import PaddedSamples, Samples
from holdtrue.policy.settings import PolicySettings, RLSettings
from holdtrue.policy.update import Drawing, logprobs_of
from holdtrue.records import Group, Rollout, content_hash
from holdtrue.refresh.answers import RATIO
from holdtrue.refresh.context import Floats
from holdtrue.tokens.conversation import Encoder, model_max_length

_CHUNK = 256
"""Given answers that are padded together."""


class Desk:
    """Where policies answer: the tokenizer, the prompts, and how answers are drawn.

    No model is kept between calls, so that none is in memory while others are trained.
    """

    def __init__(self, settings: RLSettings, device: str = "cpu", trust_remote_code: bool = False) -> None:
        """Settings as of the rounds' policy optimisation.

        Raises:
            ModelError, DataError: the policy or its prompts cannot be read.
        """
        self.settings, self.device, self.trust = settings, device, trust_remote_code
        reference, self.tokenizer = self._load(None)
        self.vocabulary = Vocabulary.of(self.tokenizer, eos=declared_ends(reference))
        self.room = model_max_length(reference.config, self.tokenizer)
        read = read_prompts(settings.data, self.tokenizer, self.room, settings.decoding.max_new_tokens).train
        first = {content_hash(text): place for place, text in reversed(list(enumerate(read.texts)))}
        self.prompts: Prompts = read.take(sorted(first.values()))
        """All different ones that are not held out, in the order of their files."""

    def draw(self, path: str | None, prompts: Prompts, group: int, seed: int, name: str) -> list[Rollout]:
        """``group`` answers to each prompt by the policy in a folder (None: the reference)."""
        policy = self._load(path)[0]
        sampler = SharedPrefixSampler(self.vocabulary, self.settings.decoding)
        samples = sampler.sample(policy, prompts.ids, group, seed)
        del policy
        ratios = np.zeros(len(samples))
        if path is not None:
            drawn = samples.padded(0, self.device)
            ratios = self._sums(drawn.logprobs_NT) - self._likelihoods(None, drawn, ban=True)
        rows = samples.rollouts(prompts.texts, self.tokenizer, policy=name)
        return [replace(row, meta={RATIO: float(ratio)}) for row, ratio in zip(rows, ratios, strict=True)]

    def log_ratios(self, path: str, groups: Sequence[Group]) -> list[Floats]:
        """(K,) log-ratios of given answers, such as those of the pairs a reward model was trained on.

        Nothing is banned, since a text may hold anything; what does not fit into the context is cut off, in
        both policies alike.
        """
        encoder = Encoder(self.tokenizer, max_length=2**31)
        end = self.tokenizer.eos_token_id
        end = min(self.vocabulary.eos) if end is None else end
        prompts, answers = [], []
        for group in groups:
            opening = encode(group.prompt, encoder)[-self.room + 1 if self.room else 0 :]
            for answer in group.answers:
                ids = [*self.tokenizer(answer.text, add_special_tokens=False)["input_ids"], end]
                prompts.append(opening)
                answers.append(
                    np.array(ids[: self.room - len(opening) if self.room else None], dtype=np.int64)
                )
        order = np.argsort([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)], kind="stable")
        parts = []
        for places in np.array_split(order, max(1, -(-len(order) // _CHUNK))):
            ids = [answers[i] for i in places]
            nothing = [np.zeros(len(own), dtype=np.float32) for own in ids]
            known = Samples([prompts[i] for i in places], 1, ids, nothing, ["stop"] * len(ids), exact=False)
            parts.append((places, known.padded(0)))
        found = np.zeros(len(order))
        for sign, model in ((1, path), (-1, None)):
            policy = self._load(model)[0]
            for places, padded in parts:
                found[places] += sign * self._likelihoods(policy, padded, ban=False)
            del policy
        return np.split(found, np.cumsum([len(group.answers) for group in groups])[:-1])

    def _likelihoods(self, policy: Any, padded: PaddedSamples, *, ban: bool) -> Floats:
        """(N,) log-probability of each answer under a policy (None: the reference)."""
        policy = self._load(None)[0] if policy is None else policy
        drawing = Drawing.of(policy, self.vocabulary, self.settings.decoding)
        drawing = drawing if ban else replace(drawing, banned=drawing.banned[:0])
        rows = self.settings.training.rows_per_pass
        return self._sums(logprobs_of(policy, padded.to(self.device), drawing, rows))

    @staticmethod
    def _sums(logprobs_NT: Tensor) -> Floats:
        found: Floats = logprobs_NT.double().sum(1).cpu().numpy()
        return found

    def _load(self, path: str | None) -> tuple[Any, Any]:
        first = self.settings.policy
        plain = PolicySettings(path=path or first.path, chat_template_path=first.chat_template_path)
        policy, tokenizer = load_policy(plain, 0, self.device, self.trust)
        return policy.eval(), tokenizer
