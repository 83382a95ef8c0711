"""Compares answers with a model that reads two at a time, and makes rewards of its comparisons.

    gap(i, j) = (z(i, j) - z(j, i)) / 2          z(i, j): the model's gap with answer i shown first

so that gap(j, i) = -gap(i, j) exactly, whatever the model makes of the place. Rewards of N answers:

    gap        r_i = (1 / N) Σ_j gap(i, j), whose differences fit all gaps best in the least-squares sense
               (HodgeRank, Jiang et al. 2011); of two answers r_1 - r_2 = gap. LLM-Blender's max_logits
               is twice that.
    win_rate   r_i = mean over the others of P(i preferred) = σ(gap(i, j))
    knockout   how many rounds answer i survives, with 2(N - 1) sequences computed instead of N(N - 1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from holdtrue.records import Group
from holdtrue.reward.store import Loaded
from holdtrue.tokens.conversation import Ids
from holdtrue.tokens.joint import JointEncoder, Order, plant
from holdtrue.tokens.tree import Tree

Floats = NDArray[np.float64]
Ranking = Literal["gap", "win_rate", "knockout"]

_Leaf = tuple[int, bytes]  # the group, and the ids of a joint sequence
_MAX_LEAVES = 16
_NAN = float("nan")


class Comparer(Protocol):
    """Anything that says which of two answers is better."""

    def compare(self, groups: Sequence[Group]) -> list[Floats]:
        """(N, N) P(row preferred to column) per group; NaN on the diagonal and where there is none."""
        ...


@dataclass(frozen=True)
class Shown:
    """What the model said of a group's answers.

    Attributes:
        logits: (N, N) z(row, column), the row shown first; NaN for pairs that were not asked for.
        reasons: why there is none, by pair.
    """

    logits: Floats
    reasons: dict[Order, str]

    @property
    def gaps(self) -> Floats:
        """(N, N) antisymmetric mean of both orders."""
        gaps: Floats = (self.logits - self.logits.T) / 2
        return gaps


class PairComparer:
    """A model of a comparing kind as a Comparer: both orders, batches by tokens, order kept.

    Args:
        loaded: the model.
        encoder: how comparisons become ids.
        max_tokens_per_pass: tokens in one forward pass; bounds memory only.
    """

    def __init__(self, loaded: Loaded, encoder: JointEncoder, max_tokens_per_pass: int = 8192) -> None:
        self.loaded = loaded
        self.encoder = encoder
        self.max_tokens_per_pass = max_tokens_per_pass

    def compare(self, groups: Sequence[Group]) -> list[Floats]:
        """P(row preferred to column) for all pairs of every group."""
        return [probabilities(shown.gaps) for shown in self.show(groups)]

    def show(self, groups: Sequence[Group], pairs: Sequence[Sequence[Order]] | None = None) -> list[Shown]:
        """Both orders of the pairs of each group, by default of all."""
        asked = [all_pairs(len(group.answers)) for group in groups] if pairs is None else pairs
        orders = [[order for i, j in own for order in ((i, j), (j, i))] for own in asked]
        encoded = self.encoder.encode(list(zip(groups, orders, strict=True)))
        found = [Shown(np.full((len(g.answers),) * 2, _NAN), {}) for g in groups]
        leaves: dict[_Leaf, Ids] = {}  # equal answers make equal sequences, which are computed once
        places: dict[tuple[int, Order], _Leaf] = {}
        for index, (own, item) in enumerate(zip(orders, encoded, strict=True)):
            for order, ids, reason in zip(own, item.ids, item.reasons, strict=True):
                if ids is None:
                    found[index].reasons[order] = str(reason)
                else:
                    places[index, order] = leaf = index, ids.tobytes()
                    leaves[leaf] = ids
        gaps = self._gaps(leaves)
        for (index, order), leaf in places.items():
            if np.isfinite(gaps[leaf]):
                found[index].logits[order] = gaps[leaf]
            else:
                found[index].reasons[order] = "gap is not finite"
        return found

    def _gaps(self, leaves: dict[_Leaf, Ids]) -> dict[_Leaf, float]:
        trees: list[Tree] = []
        owners: list[list[_Leaf]] = []
        for part in _portions(leaves, self.max_tokens_per_pass):
            trees.append(plant([leaves[key] for key in part]))
            owners.append(part)
        model = self.loaded.model
        gaps: dict[_Leaf, float] = {}
        with torch.inference_mode():
            for batch in model.pack(trees, self.max_tokens_per_pass):
                out = model(model.batch([trees[i] for i in batch])).gap
                names = [owner for i in batch for owner in owners[i]]
                gaps.update(zip(names, out.tolist(), strict=True))
        return gaps


def _portions(leaves: dict[_Leaf, Ids], budget: int) -> list[list[_Leaf]]:
    """A group's sequences in portions that share a tree: at most 16, and within the token budget."""
    portions: list[list[_Leaf]] = []
    tokens = 0
    for key, ids in leaves.items():
        full = not portions or portions[-1][0][0] != key[0] or len(portions[-1]) == _MAX_LEAVES
        if full or tokens + len(ids) > budget:
            portions.append([])
            tokens = 0
        portions[-1].append(key)
        tokens += len(ids)
    return portions


def all_pairs(answers: int) -> list[Order]:
    """Every pair of answers once."""
    return [(i, j) for i in range(answers) for j in range(i + 1, answers)]


def probabilities(gaps: Floats) -> Floats:
    """(N, N) P(row preferred to column) = σ(gap), NaN on the diagonal."""
    with np.errstate(invalid="ignore"):  # NaN where there is no gap
        found: Floats = np.exp(-np.logaddexp(0, -gaps))
    np.fill_diagonal(found, _NAN)
    return found


def mean_gaps(gaps: Floats) -> Floats:
    """(N,) mean gap over all N answers, itself included."""
    rewards: Floats = gaps.sum(1) / len(gaps)
    return rewards


def win_rates(gaps: Floats) -> Floats:
    """(N,) mean P(preferred) over the other answers."""
    rates: Floats = np.nanmean(probabilities(gaps), axis=1)
    return rates


def comparable(gaps: Floats) -> list[int]:
    """The answers that are all compared with one another: those with most gaps missing are left out."""
    kept = list(range(len(gaps)))
    while kept:
        missing = np.isnan(gaps[np.ix_(kept, kept)]).sum(1) - 1  # the diagonal is never asked for
        if not missing.any():
            break
        kept.pop(int(len(kept) - 1 - missing[::-1].argmax()))
    return kept


def knockout(
    counts: Sequence[int], play: Callable[[list[list[Order]]], list[list[float]]]
) -> list[NDArray[np.float64]]:
    """(N,) rounds each answer of every group survives; the winner survives one more than the runner-up.

    Neighbours meet, the losers leave, until one is left: N - 1 comparisons. ``play`` gives the gaps of the
    pairs of a round, for all groups at once; equal answers and those that cannot be compared (NaN) are
    decided for the first.
    """
    survived = [np.zeros(count) for count in counts]
    left = [list(range(count)) for count in counts]
    while any(len(own) > 1 for own in left):
        pairs = [list(zip(own[::2], own[1::2], strict=False)) for own in left]
        for index, (own, gaps) in enumerate(zip(pairs, play(pairs), strict=True)):
            if not own:
                continue
            winners = [j if gap < 0 else i for (i, j), gap in zip(own, gaps, strict=True)]
            left[index] = winners + left[index][2 * len(own) :]
            survived[index][left[index]] += 1
    return survived


@dataclass(frozen=True)
class Judged:
    """Rewards (N,) made of comparisons, NaN where ``reasons`` says why there is none.

    ``consistent`` says of each of the group's comparisons that were computed in both orders whether both
    have the same winner.
    """

    rewards: Floats
    reasons: tuple[str | None, ...]
    consistent: tuple[bool, ...] = ()


def judge(comparer: PairComparer, groups: Sequence[Group], ranking: Ranking) -> list[Judged]:
    """Rewards of every group's answers; an answer without another to compare it with has none."""
    if ranking == "knockout":
        return _knock_out(comparer, groups)
    return [
        _judged(group, shown, ranking) for group, shown in zip(groups, comparer.show(groups), strict=True)
    ]


def _judged(group: Group, shown: Shown, ranking: Ranking) -> Judged:
    gaps = shown.gaps
    kept = comparable(gaps)
    rewards = np.full(len(gaps), _NAN)
    reasons: list[str | None] = [reason_of(shown, k) for k in range(len(gaps))]
    if len(kept) > 1:
        matrix = gaps[np.ix_(kept, kept)]
        np.fill_diagonal(matrix, 0)
        rewards[kept] = win_rates(matrix) if ranking == "win_rate" else mean_gaps(matrix)
        reasons = [None if k in kept else reason for k, reason in enumerate(reasons)]
    sides = [(shown.logits[c.first, c.second], shown.logits[c.second, c.first]) for c in group.comparisons]
    consistent = tuple(
        bool(np.sign(z) == np.sign(-swapped)) for z, swapped in sides if z == z and swapped == swapped
    )
    return Judged(rewards, tuple(reasons), consistent)


def reason_of(shown: Shown, answer: int) -> str:
    """Why an answer has no reward."""
    said = (reason for order, reason in shown.reasons.items() if answer in order)
    return next(said, "nothing to compare it with")


def _knock_out(comparer: PairComparer, groups: Sequence[Group]) -> list[Judged]:
    failed: dict[int, str] = {}

    def play(pairs: list[list[Order]]) -> list[list[float]]:
        shown = comparer.show(groups, pairs)
        failed.update({k: next(iter(item.reasons.values())) for k, item in enumerate(shown) if item.reasons})
        return [[float(item.gaps[pair]) for pair in own] for item, own in zip(shown, pairs, strict=True)]

    found = []
    for index, survived in enumerate(knockout([len(group.answers) for group in groups], play)):
        reason = failed.get(index, "nothing to compare it with" if len(survived) == 1 else None)
        rewards = survived if reason is None else np.full(len(survived), _NAN)
        found.append(Judged(rewards, (reason,) * len(survived)))
    return found
