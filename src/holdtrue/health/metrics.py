"""Measures of generated text on token ids, and of the two log-probabilities of it. Pure functions.

No whole-text measure of repetition tells good text from bad: tables and JSON repeat more than a short loop.
So :func:`seq_rep` and :func:`tail_zlib` are for trends against healthy rollouts, not for verdicts on a row.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]


def ngrams(ids: Ids, n: int) -> NDArray[np.int64]:
    """Exact codes (N - n + 1,) of the n-grams of a row (N,): equal where the n-grams are equal."""
    if len(ids) < n:
        return np.zeros(0, dtype=np.int64)
    distinct, ranks = np.unique(ids, return_inverse=True)
    base = len(distinct)
    codes: NDArray[np.int64] = ranks[: len(ids) - n + 1].astype(np.int64)
    most = base
    for k in range(1, n):
        if most * base >= 2**63:
            codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
            most = len(codes)
        codes = codes * base + ranks[k : len(ids) - n + 1 + k]
        most *= base
    return codes


def seq_rep(ids: Ids, n: int = 4) -> float:
    """Share of a row's n-grams that came before in it, ``1 - distinct / all``; 0 for fewer than n tokens.

    seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319).
    """
    codes = ngrams(ids, n)
    return 1 - len(np.unique(codes)) / len(codes) if len(codes) else 0.0


def distinct(rows: Sequence[Ids], n: int = 4) -> float:
    """Distinct n-grams over all n-grams of a group of answers to one prompt (Li et al. 2016, distinct-n).

    Falls towards ``1 / len(rows)`` as the answers become the same. NaN when no row has n tokens.
    """
    lengths = [len(row) for row in rows]
    if not any(length >= n for length in lengths):
        return float("nan")
    joined = ngrams(np.concatenate(list(rows)), n)
    # n-grams that reach from one row into the next are no n-grams of either.
    ends = np.repeat(np.cumsum(lengths), lengths)[: len(joined)]
    own = joined[np.arange(len(joined)) + n <= ends]
    return len(np.unique(own)) / len(own)


def tail_zlib(ids: Ids, window: int = 256) -> float:
    """Length over compressed length of the last ``window`` tokens, each distinct one of them as one byte.

    About 1 for text that does not repeat itself, 20 for a loop. NaN for fewer than 16 tokens. More than 256
    distinct tokens are taken modulo 256.
    """
    tail = ids[-window:]
    if len(tail) < 16:
        return float("nan")
    ranks = np.unique(tail, return_inverse=True)[1]
    return len(tail) / len(zlib.compress(ranks.astype(np.uint8).tobytes(), 6))


def is_in(ids: Ids, members: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each token (N,) whether it is one of the sorted ``members``."""
    if not len(members):
        return np.zeros(len(ids), dtype=np.bool_)
    at = np.searchsorted(members, ids)
    found: NDArray[np.bool_] = members[np.minimum(at, len(members) - 1)] == ids
    return found


@dataclass(frozen=True)
class Gap:
    """How far two log-probabilities of the same tokens are apart; d = trained - sampled."""

    mean: float
    """Mean of abs d."""
    largest: float
    k3: float
    """Mean of ``exp(d) - 1 - d``: estimate of KL(sampler, trainer), never negative (Schulman 2020)."""
    effective: float
    """Effective sample size as a share, ``(sum w)^2 / (N sum w^2)`` for the weights ``w = exp(d)``."""


def logprob_gap(sampled: Floats, trained: Floats) -> Gap:
    """Gap between the engine's log-probabilities and the trainer's, over tokens where both are finite.

    All NaN when there are none. Healthy pairs of engines stay near a mean of 0.01; one that grows step by
    step is a fault of the engine (vllm-project/vime#64: 0.011 flat when healthy, to 0.036 in 30 steps).
    """
    finite = np.isfinite(sampled) & np.isfinite(trained)
    if not finite.any():
        return Gap(*[float("nan")] * 4)
    d = trained[finite] - sampled[finite]
    # Beyond e^50 nothing changes but the range of a float.
    w = np.exp(np.clip(d, -50, 50))
    return Gap(
        mean=float(np.abs(d).mean()),
        largest=float(np.abs(d).max()),
        k3=float((w - 1 - d).mean()),
        effective=float(w.sum() ** 2 / (len(w) * (w * w).sum())),
    )


def confident_run(logprobs: Floats, above: float = 0.99) -> int:
    """Longest run of tokens that were sampled with a probability above ``above``.

    MiniMax-M1 stops an answer at 3000 of them (arXiv 2506.13585): a loop has become certain.
    """
    sure = np.concatenate([[False], logprobs > np.log(above), [False]])
    changes = np.flatnonzero(sure[1:] != sure[:-1])
    return int((changes[1::2] - changes[::2]).max(initial=0))


@dataclass(frozen=True)
class Entropy:
    """Entropy of the policy's next-token distribution over tokens, in nats."""

    mean: float
    p10: float
    """The value a tenth of the tokens are below."""
    certain: float
    """Share of tokens below 0.001 nats."""


def entropy_summary(entropies: Floats) -> Entropy:
    """Summary over the finite values; NaN when there are none."""
    values = entropies[np.isfinite(entropies)]
    if not len(values):
        return Entropy(*[float("nan")] * 3)
    tenth = np.partition(values, len(values) // 10)[len(values) // 10]
    return Entropy(float(values.mean()), float(tenth), float((values < 1e-3).mean()))
