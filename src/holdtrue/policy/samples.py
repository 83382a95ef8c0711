"""What every sampler gives: groups of answers as token ids, with the log-probabilities of their draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdtrue.errors import DataError
from holdtrue.records import Finish, Messages, Rollout

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class PaddedSamples:
    """Samples as tensors: each row its prompt, its answer, then padding.

    Attributes:
        ids_NT: prompt and answer.
        attention_NT: True for both, False for padding.
        completion_NT: True for the answer's tokens, its end token among them.
        logprobs_NT: ``logprobs_NT[n, t]`` is that of token ``ids_NT[n, t]``; 0 outside the answer.
    """

    ids_NT: Tensor
    attention_NT: Tensor
    completion_NT: Tensor
    logprobs_NT: Tensor

    def to(self, device: torch.device | str) -> PaddedSamples:
        """On another device."""
        return PaddedSamples(
            self.ids_NT.to(device),
            self.attention_NT.to(device),
            self.completion_NT.to(device),
            self.logprobs_NT.to(device),
        )

    @property
    def positions_NT(self) -> Tensor:
        """Of each token in its row."""
        return torch.arange(self.ids_NT.shape[1], device=self.ids_NT.device).expand_as(self.ids_NT)


@dataclass(frozen=True)
class Samples:
    """G answers to each of P prompts: N = P x G rows, those of a prompt together and in the prompts' order.

    Attributes:
        prompt_ids: P prompts.
        group: G.
        completion_ids: N answers as they were drawn; the end token is included where the row ended by itself.
        logprobs: for each of their tokens the log-probability in the distribution it was drawn from, see
            :meth:`Decoding.distribution <holdtrue.policy.decoding.Decoding.distribution>`: with its defaults
            that of the policy over the allowed tokens at the sampling temperature.
        finish: N reasons.
        exact: False where ids and log-probabilities are not those of the drawing itself but were found again
            from a text.
    """

    prompt_ids: Sequence[Ids]
    group: int
    completion_ids: Sequence[Ids]
    logprobs: Sequence[NDArray[np.float32]]
    finish: Sequence[Finish]
    exact: bool = True

    def __post_init__(self) -> None:
        rows = len(self.prompt_ids) * self.group
        seen = (len(self.completion_ids), len(self.logprobs), len(self.finish))
        if seen != (rows, rows, rows):
            raise DataError(
                f"{len(self.prompt_ids)} prompts x {self.group} answers are {rows} rows; seen {seen[0]} of "
                f"ids, {seen[1]} of log-probabilities, {seen[2]} of reasons"
            )
        for row, (ids, logprobs) in enumerate(zip(self.completion_ids, self.logprobs, strict=True)):
            if len(ids) != len(logprobs):
                raise DataError(f"row {row} has {len(ids)} tokens and {len(logprobs)} log-probabilities")

    def __len__(self) -> int:
        """N."""
        return len(self.completion_ids)

    @property
    def prompt_of(self) -> NDArray[np.int64]:
        """(N,) index of each row's prompt."""
        return np.arange(len(self.prompt_ids)).repeat(self.group)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each answer."""
        return np.array([len(ids) for ids in self.completion_ids], dtype=np.int64)

    def padded(self, pad: int, device: torch.device | str = "cpu") -> PaddedSamples:
        """As tensors, filled up on the right with the id ``pad``."""
        prompts = [self.prompt_ids[p] for p in self.prompt_of]
        width = max(len(p) + len(c) for p, c in zip(prompts, self.completion_ids, strict=True))
        ids = np.full((len(self), width), pad, dtype=np.int64)
        attention = np.zeros((len(self), width), dtype=np.bool_)
        completion = np.zeros((len(self), width), dtype=np.bool_)
        logprobs = np.zeros((len(self), width), dtype=np.float32)
        for row, (prompt, answer) in enumerate(zip(prompts, self.completion_ids, strict=True)):
            start, end = len(prompt), len(prompt) + len(answer)
            ids[row, :start], ids[row, start:end] = prompt, answer
            attention[row, :end] = True
            completion[row, start:end] = True
            logprobs[row, start:end] = self.logprobs[row]
        tensors = (torch.from_numpy(array).to(device) for array in (ids, attention, completion, logprobs))
        return PaddedSamples(*tensors)

    def rollouts(
        self,
        prompts: Sequence[Messages | str],
        tokenizer: Any,
        *,
        step: int | None = None,
        policy: str | None = None,
    ) -> list[Rollout]:
        """A row of ``rollouts.jsonl`` for each answer.

        Its text shows every special token but the end token of an answer that ended by itself.
        """
        if len(prompts) != len(self.prompt_ids):
            raise DataError(f"{len(self.prompt_ids)} prompts were sampled from; seen {len(prompts)} texts")
        return [
            Rollout(
                prompt=prompts[prompt],
                answer=_text(tokenizer, self.prompt_ids[prompt], prompts[prompt], ids, finish),
                completion_ids=ids.tolist(),
                logprobs=[float(value) for value in logprobs],
                finish=finish,
                step=step,
                policy=policy,
                meta={} if self.exact else {"exact": False},
            )
            for prompt, ids, logprobs, finish in zip(
                self.prompt_of, self.completion_ids, self.logprobs, self.finish, strict=True
            )
        ]


def _text(tokenizer: Any, prompt_ids: Ids, prompt: Messages | str, ids: Ids, finish: Finish) -> str:
    """An answer's text. That of a plain text's continuation is what it adds to the text: alone, some
    tokenizers decode a first word without the space before it."""
    ids = ids[:-1] if finish == "stop" else ids
    text = str(tokenizer.decode(ids, skip_special_tokens=False))
    if not isinstance(prompt, str) or not prompt:
        return text
    last = prompt_ids[-1:]
    before = str(tokenizer.decode(last, skip_special_tokens=False))
    whole = str(tokenizer.decode(np.concatenate([last, ids]), skip_special_tokens=False))
    return whole[len(before) :] if whole.startswith(before) else text
