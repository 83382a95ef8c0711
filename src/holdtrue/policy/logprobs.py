"""Log-probabilities of answers by a full forward, with gradients: what training and rescoring compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdtrue.policy.decoding import Decoding
from holdtrue.policy.request import evaluating
from holdtrue.policy.samples import Ids, PaddedSamples, Samples
from holdtrue.policy.trees import logits_before


def token_logprobs(policy: Any, padded: PaddedSamples, decoding: Decoding, banned: Tensor) -> Tensor:
    """(N, T) log-probability of every token of the answers, 0 elsewhere.

    In the distribution of ``decoding`` with ``banned`` ids (B,), so that it equals what a sampler of the same
    decoding wrote down.
    """
    return _drawn(policy, padded, decoding, banned)[0]


def logprobs_and_entropy(
    policy: Any, padded: PaddedSamples, decoding: Decoding, banned: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`token_logprobs`, and (N, T) the entropy in nats of what each token was drawn from, 0 elsewhere.

    Tokens that could not be drawn have no part in it, nor in its gradient.
    """
    chosen, logprobs = _drawn(policy, padded, decoding, banned)
    entropy = -(logprobs.exp() * logprobs.where(logprobs.isfinite(), 0.0)).sum(-1)
    return chosen, torch.zeros_like(chosen).masked_scatter(padded.completion_NT, entropy)


def _drawn(policy: Any, padded: PaddedSamples, decoding: Decoding, banned: Tensor) -> tuple[Tensor, Tensor]:
    """(N, T) log-probability of every token of the answers, and (R, V) what these were drawn from."""
    rows, places = padded.completion_NT.nonzero(as_tuple=True)
    if not len(places):
        return torch.zeros_like(padded.logprobs_NT), padded.logprobs_NT.new_zeros(0, 1)
    logits = logits_before(policy, padded)
    logprobs = decoding.distribution(logits, banned)
    chosen = logprobs.gather(-1, padded.ids_NT[rows, places][:, None])[:, 0]
    return torch.zeros_like(padded.logprobs_NT).index_put((rows, places), chosen), logprobs


def rescored(
    policy: Any,
    prompts: Sequence[Ids],
    completions: Sequence[Ids],
    decoding: Decoding,
    banned: Ids,
    rows: int = 64,
) -> list[NDArray[np.float32]]:
    """Log-probabilities of each completion after its prompt, ``rows`` at a time, without gradients."""
    found: list[NDArray[np.float32]] = []
    with torch.no_grad(), evaluating(policy):
        for start in range(0, len(completions), rows):
            part = completions[start : start + rows]
            empty = [np.zeros(len(ids), dtype=np.float32) for ids in part]
            samples = Samples(prompts[start : start + rows], 1, part, empty, ["length"] * len(part))
            padded = samples.padded(0, policy.device)
            values = token_logprobs(policy, padded, decoding, torch.from_numpy(banned).to(policy.device))
            for row, mask in zip(values.cpu().numpy(), padded.completion_NT.cpu().numpy(), strict=True):
                found.append(row[mask])
    return found
