"""Answers of a policy to prompts of the rounds, and how much likelier they are than under the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import declared_ends
from holdtrue.policy.prompts import Prompts, encode, read_prompts
from holdtrue.policy.run import load_policy
from holdtrue.policy.sampler import SharedPrefixSampler
from holdtrue.policy.samples import Samples
from holdtrue.policy.settings import PolicySettings, RLSettings
from holdtrue.policy.update import Drawing, logprobs_of
from holdtrue.records import Group, Rollout
from holdtrue.refresh.answers import RATIO
from holdtrue.refresh.context import Floats
from holdtrue.tokens.conversation import Encoder, model_max_length


class Desk:
    """Where policies answer: the reference with its tokenizer, the prompts, and how answers are drawn."""

    def __init__(self, settings: RLSettings, device: str = "cpu", trust_remote_code: bool = False) -> None:
        """Settings as of the rounds' policy optimisation.

        Raises:
            ModelError, DataError: the policy or its prompts cannot be read.
        """
        self.settings, self.device, self.trust = settings, device, trust_remote_code
        self.reference, self.tokenizer = self._load(settings.policy.path)
        self.vocabulary = Vocabulary.of(self.tokenizer, eos=declared_ends(self.reference))
        room = model_max_length(self.reference.config, self.tokenizer)
        read = read_prompts(settings.data, self.tokenizer, room, settings.decoding.max_new_tokens)
        self.prompts: Prompts = read.train
        """All that are not held out, in the order of their files."""

    def draw(self, path: str | None, prompts: Prompts, group: int, seed: int, name: str) -> list[Rollout]:
        """``group`` answers to each prompt by the policy in a folder (None: the reference)."""
        policy = self.reference if path is None else self._load(path)[0]
        sampler = SharedPrefixSampler(self.vocabulary, self.settings.decoding)
        samples = sampler.sample(policy, prompts.ids, group, seed)
        ratios = np.zeros(len(samples)) if path is None else self._log_ratios(samples, None)
        rows = samples.rollouts(prompts.texts, self.tokenizer, policy=name)
        return [replace(row, meta={RATIO: float(ratio)}) for row, ratio in zip(rows, ratios, strict=True)]

    def log_ratios(self, path: str, groups: Sequence[Group]) -> list[Floats]:
        """(K,) log-ratios of given answers, such as those of the pairs a reward model was trained on."""
        encoder = Encoder(self.tokenizer, max_length=2**31)
        end = self.tokenizer.eos_token_id
        end = min(self.vocabulary.eos) if end is None else end
        prompts, answers = [], []
        for group in groups:
            opening = encode(group.prompt, encoder)
            for answer in group.answers:
                ids = self.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
                prompts.append(opening)
                answers.append(np.array([*ids, end], dtype=np.int64))
        nothing = [np.zeros(len(ids), dtype=np.float32) for ids in answers]
        known = Samples(prompts, 1, answers, nothing, ["stop"] * len(answers), exact=False)
        found = self._log_ratios(known, self._load(path)[0])
        return np.split(found, np.cumsum([len(group.answers) for group in groups])[:-1])

    def _log_ratios(self, samples: Samples, policy: Any) -> Floats:
        """(N,) Σ over an answer's tokens; of the samples' own log-probabilities where no policy is given."""
        padded = samples.padded(0, self.device)
        banned = self.vocabulary.banned(self.reference.config.get_text_config().vocab_size)
        banned = banned if self.settings.decoding.control == "ban" else banned[:0]
        drawing = Drawing(self.settings.decoding, torch.from_numpy(banned).to(self.device))
        rows = self.settings.training.rows_per_pass
        theirs = logprobs_of(self.reference, padded, drawing, rows)
        own = padded.logprobs_NT if policy is None else logprobs_of(policy, padded, drawing, rows)
        found: Floats = (own - theirs).double().sum(1).cpu().numpy()
        return found

    def _load(self, path: str) -> tuple[Any, Any]:
        plain = PolicySettings(path=path, chat_template_path=self.settings.policy.chat_template_path)
        policy, tokenizer = load_policy(plain, 0, self.device, self.trust)
        return policy.eval(), tokenizer
