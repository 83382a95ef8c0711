"""How far the policy has moved, and what that does to a reward model: pure functions of numbers at hand.

    kl                E_π[log π/π_ref], nats                            of the policy's answers
    spread            √ mean (r_i - r_j)² over pairs of one prompt      an alarm when it falls, never a score
    J                 :mod:`holdtrue.refresh.difference`
    disagreement      mean over pairs of the std over members of Δr / spread of the member's reference rewards
    mahalanobis       √((h - μ)ᵀ Σ⁻¹ (h - μ) / D), μ and Σ of the reference's states
    proxy gap         mean whitened reward of the proxy less that of a held-out model
    accuracy          of pairs of the policy's answers that are labelled, with Wilson's interval

Groups are prompts: every argument in plural is a list with an array (K,) for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdtrue.errors import DataError
from holdtrue.intervals import wilson
from holdtrue.records import Group
from holdtrue.refresh.difference import difference

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Shift:
    """Telemetry of one round; None where what a number needs is not at hand.

    Attributes:
        prompts, answers: that were measured.
        kl, kl_error: nats, and its standard error over prompts.
        reward: whitened: how far the model thinks that the policy has come from the reference.
        spread, relative_spread: reward units, and over that of the reference policy.
        difference: mean J. These three need prompts with two answers or more.
        disagreement: reference standard deviations.
        mahalanobis, reference_mahalanobis: mean distances of the policy's states and of the reference's own,
            both to each half of the reference's, its own to the half they are not in.
        proxy_gap: whitened reward units.
        accuracy, low, high, labels: on-policy pair accuracy with its 95 % interval, and of how many labels.
    """

    prompts: int
    answers: int
    reward: float | None = None
    spread: float | None = None
    difference: float | None = None
    relative_spread: float | None = None
    kl: float | None = None
    kl_error: float | None = None
    disagreement: float | None = None
    mahalanobis: float | None = None
    reference_mahalanobis: float | None = None
    proxy_gap: float | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    labels: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite is null."""
        return {
            name: value if value is None or np.isfinite(value) else None
            for name, value in asdict(self).items()
        }


def measure(
    rewards: Sequence[Floats],
    *,
    reference: Sequence[Floats] | None = None,
    log_ratios: Sequence[Floats] | None = None,
    members: tuple[Sequence[Sequence[Floats]], Sequence[Sequence[Floats]]] | None = None,
    states: tuple[Sequence[Floats], Sequence[Floats]] | None = None,
    held_out: tuple[Sequence[Floats], Sequence[Floats]] | None = None,
    labelled: Sequence[Group] | None = None,
) -> Shift:
    """All that can be said of a round's answers.

    Args:
        rewards: of the policy's answers by the reward model in use; ``reference`` of the reference policy's.
        members: rewards of the policy's answers by each of several models, and of the reference's.
        states: (K, D) states of the policy's answers, and of the reference's.
        held_out: rewards by a model the policy was not optimised against, of both sets of answers.
        labelled: the groups of ``rewards`` with comparisons.

    Raises:
        DataError: no answer has a reward, or ``held_out`` comes without ``reference``.
    """
    answers = sum(int(np.isfinite(own).sum()) for own in rewards)
    if not answers:
        raise DataError("no answer has a reward")
    found: dict[str, Any] = {}
    paired = any(True for _ in _gaps(rewards))
    if paired:
        found = {"spread": spread(rewards), "difference": mean_difference(rewards)}
    if reference is not None:
        if paired and any(a != b for a, b in _gaps(reference)):
            found["relative_spread"] = found["spread"] / spread(reference)
        if np.nanstd(np.concatenate([np.asarray(own) for own in reference])) > 0:
            found["reward"] = whitened(rewards, reference)
    if log_ratios is not None:
        found["kl"], found["kl_error"] = kl(log_ratios)
    if members is not None and paired:
        found["disagreement"] = disagreement(*members)
    if states is not None:
        own, halves = _rows(states[0]), [_rows(states[1])[start::2] for start in (0, 1)]
        if len(own) and min(map(len, halves)) > 1:
            far = [mahalanobis(own, half).mean() for half in halves]
            usual_far = [mahalanobis(halves[1 - i], halves[i]).mean() for i in (0, 1)]
            found["mahalanobis"] = float(np.mean(far))
            found["reference_mahalanobis"] = float(np.mean(usual_far))
    if held_out is not None:
        if reference is None:
            raise DataError("the gap to a held-out model is measured against rewards of reference answers")
        found["proxy_gap"] = whitened(rewards, reference) - whitened(*held_out)
    if labelled is not None:
        right, count = pair_accuracy(rewards, labelled)
        if count:
            found["accuracy"], found["labels"] = right / count, count
            found["low"], found["high"] = wilson(right, count)
    return Shift(prompts=len(rewards), answers=answers, **found)


def kl(log_ratios: Sequence[Floats]) -> tuple[float, float]:
    """Mean log-ratio of the policy's own answers, which estimates KL(π ‖ π_ref), and its standard error.

    The error is over prompts, whose answers depend on each other; NaN of a single prompt.
    """
    means = np.array([own.mean() for own in map(np.asarray, log_ratios) if len(own)], dtype=np.float64)
    if not len(means):
        raise DataError("no log-ratio is at hand")
    error = means.std(ddof=1) / len(means) ** 0.5 if len(means) > 1 else float("nan")
    return float(np.concatenate([np.asarray(own) for own in log_ratios]).mean()), float(error)


def spread(rewards: Sequence[Floats]) -> float:
    """√ mean (r_i - r_j)² over all pairs of answers to one prompt, prompts counted by their pairs.

    Raises:
        DataError: no prompt has two answers with a reward.
    """
    gaps = [a - b for a, b in _gaps(rewards)]
    if not gaps:
        raise DataError("no prompt has two answers with a reward")
    return float(np.sqrt(np.mean(np.square(gaps))))


def mean_difference(rewards: Sequence[Floats]) -> float:
    """Mean over prompts of J; prompts with fewer than two rewards are left out."""
    finite = [own[np.isfinite(own)] for own in map(np.asarray, rewards)]
    each = [difference(torch.from_numpy(own.astype(np.float64))).item() for own in finite if len(own) > 1]
    if not each:
        raise DataError("no prompt has two answers with a reward")
    return float(np.mean(each))


def disagreement(members: Sequence[Sequence[Floats]], reference: Sequence[Sequence[Floats]]) -> float:
    """Mean over pairs of the std over members of Δr, each over the std of its model's reference rewards."""
    if len(members) < 2:
        raise DataError(f"disagreement is between two models or more, got {len(members)}")
    scales = [float(np.nanstd(np.concatenate([np.asarray(own) for own in one]))) for one in reference]
    gaps = [
        [(a - b) / scale for a, b in _gaps(one)] for one, scale in zip(members, scales, strict=True) if scale
    ]
    return float(np.std(np.array(gaps), axis=0).mean())


def mahalanobis(states: Floats, reference: Floats) -> Floats:
    """(N,) distances √((h - μ)ᵀ Σ⁻¹ (h - μ) / D) of states (N, D) to reference states (M, D), M > 1.

    Σ is the shrinkage estimate of Ledoit and Wolf (2004). With M near D or below, states of the
    reference that were not among the M lie far as well: compare with those.
    """
    if len(reference) < 2:
        raise DataError(f"a covariance takes two reference states or more, got {len(reference)}")
    mean, covariance = shrunk_covariance(reference)
    away = np.asarray(states, dtype=np.float64) - mean
    squared = np.einsum("nd,nd->n", away, np.linalg.solve(covariance, away.T).T)
    found: Floats = np.sqrt(np.maximum(squared, 0) / states.shape[1])
    return found


def shrunk_covariance(states: Floats) -> tuple[Floats, Floats]:
    """Mean and (1 - s) S + s m I, m = tr S / D, with the s of Ledoit and Wolf (2004), at least 1e-6."""
    rows = np.asarray(states, dtype=np.float64)
    mean = rows.mean(0)
    rows = rows - mean
    count, width = rows.shape
    sample = rows.T @ rows / count
    scale = np.trace(sample) / width
    distance = np.square(sample - scale * np.eye(width)).sum()
    error = (np.square(np.square(rows).sum(1)).sum() / count - np.square(sample).sum()) / count
    share = min(max(error / distance, 1e-6), 1.0) if distance > 0 else 1.0
    return mean, (1 - share) * sample + share * max(scale, 1e-12) * np.eye(width)


def whitened(rewards: Sequence[Floats], reference: Sequence[Floats]) -> float:
    """(mean reward - reference mean) / reference std: how far a model thinks that the policy has come."""
    own, others = (np.concatenate([np.asarray(one) for one in both]) for both in (rewards, reference))
    scale = float(np.nanstd(others))
    if not scale:
        raise DataError("all reference rewards are equal: they give no scale")
    return float((np.nanmean(own) - np.nanmean(others)) / scale)


def pair_accuracy(rewards: Sequence[Floats], labelled: Sequence[Group]) -> tuple[float, int]:
    """How many labelled pairs (ties left out) the rewards order rightly, equal rewards half, and how many."""
    right, count = 0.0, 0
    for own, group in zip(rewards, labelled, strict=True):
        for comparison in group.comparisons:
            if comparison.preferred is not None:
                better, worse = comparison.preferred
                gap = float(own[better] - own[worse])
                if np.isfinite(gap):
                    right += 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
                    count += 1
    return right, count


def _gaps(rewards: Sequence[Floats]) -> Iterator[tuple[float, float]]:
    """Both rewards of every pair of one prompt's answers that have one."""
    for own in rewards:
        for one, other in combinations(np.asarray(own, dtype=np.float64).tolist(), 2):
            if np.isfinite(one) and np.isfinite(other):
                yield one, other


def _rows(states: Sequence[Floats]) -> Floats:
    rows = np.concatenate([np.asarray(own) for own in states])
    found: Floats = rows[np.isfinite(rows).all(1)]
    return found
