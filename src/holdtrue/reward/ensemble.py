"""Ensembles: rewards of several models, each on its own scale, brought to one scale and combined.

    z_m = (r_m - mean_m) / std_m                          member m, over its reference answers
    mean            Σ_m z_m / M
    min             min_m z_m                             worst case (Coste et al., arXiv 2310.02743)
    mean_minus_std  mean_m z_m - λ · std_m z_m            lower bound (Eisenstein et al., arXiv 2312.09244)

std over members divides by M. It is also the disagreement, given with each reward. Members may be of any
kind, with other bases and tokenizers: each is only asked for its rewards. But either all or none compare
answers, which makes an answer's reward relative to those beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from holdtrue.errors import ModelError
from holdtrue.records import Group
from holdtrue.reward.members import Member, Record
from holdtrue.reward.scorer import Scored, StreamingScorer

Combination = Literal["mean", "min", "mean_minus_std"]
Floats = NDArray[np.float64]


class Scaled(Member):
    """A member and its rewards' mean and standard deviation on the answers they were measured on."""

    mean: float
    std: float = Field(gt=0)


class Ensemble(Record):
    """What ``ensemble.json`` holds.

    Attributes:
        scale: where means and standard deviations are from: each member's card, or one set of answers.
        penalty: λ of ``mean_minus_std``.
    """

    members: tuple[Scaled, ...] = Field(min_length=2)
    combine: Combination
    penalty: float = Field(1.0, ge=0)
    scale: Literal["cards", "data"]


def combine(rewards: Floats, how: Combination, penalty: float = 1.0) -> tuple[Floats, Floats]:
    """(M, N) normalised rewards to (N,) rewards and (N,) disagreement, their std over members."""
    spread: Floats = rewards.std(0)
    ways: dict[str, Callable[[], Floats]] = {
        "mean": lambda: rewards.mean(0),
        "min": lambda: rewards.min(0),
        "mean_minus_std": lambda: rewards.mean(0) - penalty * spread,
    }
    return ways[how](), spread


def scale_of(rewards: Iterable[NDArray[np.floating]], name: str) -> dict[str, float]:
    """Mean and standard deviation of a model's rewards, all groups together, those it lacks left out.

    Raises:
        ModelError: it gives fewer than two different rewards.
    """
    values = np.concatenate([np.asarray(row, dtype=np.float64) for row in rewards])
    values = values[np.isfinite(values)]
    if len(values) < 2 or not values.std() > 0:
        raise ModelError(
            f"{name} gives the data {len(set(values.tolist()))} different rewards; no scale to use"
        )
    return {"mean": float(values.mean()), "std": float(values.std())}


class EnsembleScorer(StreamingScorer):
    """An ensemble as a Scorer. An answer that a member cannot score has no reward.

    Args:
        ensemble: means, standard deviations and how to combine.
        scorers: one per member, in order.
        chunk: groups scored together.
    """

    def __init__(self, ensemble: Ensemble, scorers: Sequence[StreamingScorer], chunk: int = 512) -> None:
        self.ensemble = ensemble
        self.scorers = scorers
        self.chunk = chunk

    def _score_chunk(self, groups: Sequence[Group]) -> Iterable[Scored]:
        return map(self._combined, *(scorer.stream(groups) for scorer in self.scorers))

    def _combined(self, *scored: Scored) -> Scored:
        normalised = np.stack(
            [
                (item.rewards.astype(np.float64) - member.mean) / member.std
                for item, member in zip(scored, self.ensemble.members, strict=True)
            ]
        )
        rewards, spread = combine(normalised, self.ensemble.combine, self.ensemble.penalty)
        reasons = tuple(
            next((reason for reason in own if reason), None)
            for own in zip(*(item.reasons for item in scored), strict=True)
        )
        return Scored(rewards.astype(np.float32), reasons, std=spread.astype(np.float32))
