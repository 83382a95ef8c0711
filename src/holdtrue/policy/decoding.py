"""How an answer's tokens are drawn, for every sampler: the distribution and the draw."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from holdtrue.health.stream import RepetitionDetection
from holdtrue.settings import Section


class Decoding(Section):
    """What a token is drawn from. By default the policy itself, at temperature 1.

    ``softmax(logits / temperature)`` over the allowed tokens; of it the ``top_k`` likeliest, of those the
    fewest whose mass reaches ``top_p``; renormalised after each. :meth:`distribution` gives its logarithm:
    the log-probability that every sampler writes down for the token it drew.
    """

    max_new_tokens: int = Field(default=128, ge=1)
    """Longest answer, its end token counted."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits. Train at the same one: the ratio of two policies is that of what was sampled."""
    top_k: int = Field(default=0, ge=0)
    """Likeliest tokens that may be drawn; 0: all. 1 is greedy decoding, with log-probabilities of 0."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Least mass of the tokens that may be drawn; 1: all.

    Either cut raises the log-probabilities by -log(mass kept), which no forward of the trainer repeats: the
    ratio begins below 1, and tokens outside the cut are never tried. For evaluation, not for training.
    """
    control: Literal["ban", "end", "keep"] = "ban"
    """What is done with control and phantom ids: never drawn and the rest renormalised, the answer ended
    (finish ``control``), or nothing. A ban hides the habit of writing them and does not unlearn it."""
    loop: RepetitionDetection | None = RepetitionDetection()
    """When an answer loops and is ended (finish ``loop``)."""

    def distribution(self, logits: Tensor, banned: Tensor) -> Tensor:
        """Log-probabilities (..., V), float32, of logits (..., V); -inf for ``banned`` (B,) and the cut."""
        scores = logits.float() / self.temperature
        if len(banned):
            scores = scores.index_fill(-1, banned, float("-inf"))
        logprobs = scores.log_softmax(-1)
        if self.top_k:
            least = logprobs.topk(min(self.top_k, logprobs.shape[-1])).values[..., -1:]
            logprobs = logprobs.masked_fill(logprobs < least, float("-inf")).log_softmax(-1)
        if self.top_p < 1:
            ordered, places = logprobs.sort(descending=True, stable=True)
            likelier = ordered.exp().cumsum(-1) - ordered.exp()
            cut = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, places, likelier >= self.top_p)
            logprobs = logprobs.masked_fill(cut, float("-inf")).log_softmax(-1)
        return logprobs


def draw(logprobs: Tensor, uniforms: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Token ids (R,) and their log-probabilities (R,): the cumulated mass inverted at ``uniforms`` (R,).

    One number a token, so that a row's answer depends on its own numbers and on no other row.
    """
    mass = logprobs.double().exp().cumsum(-1)
    total = mass[:, -1:]
    at = torch.from_numpy(uniforms).to(mass.device)[:, None] * total
    at = torch.minimum(at, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(mass, at, right=True).clamp(max=logprobs.shape[-1] - 1)
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]


def uniforms(seed: int, prompts: int, group: int, tokens: int, first: int = 0) -> NDArray[np.float64]:
    """(P x G, tokens) in [0, 1): row ``p * G + g`` is seeded with (seed, first + p, g), whatever stands
    beside it."""
    return np.stack(
        [
            np.random.default_rng([seed, prompt, answer]).random(tokens)
            for prompt in range(first, first + prompts)
            for answer in range(group)
        ]
    )


def declared_ends(policy: Any) -> frozenset[int]:
    """Every id the policy's generation config, or else its config, declares to end an answer."""
    for config in (getattr(policy, "generation_config", None), policy.config.get_text_config()):
        declared = getattr(config, "eos_token_id", None)
        if declared is not None:
            return frozenset([declared] if isinstance(declared, int) else declared)
    return frozenset()
