"""Buy labels for pairs of the policy's new answers, and train on them together with the original pairs.

The only method that learns what raters think of the new answers, and in every controlled comparison we know
the one that wins. What the budget is spent on:

    random        uniformly
    uncertainty   smallest |Δr|                       where the model in use is nearest to a coin flip
    disagreement  largest std over members of Δz      models of other seeds, each on its own scale
    d_optimal     largest gain of log det             Σ σ'(Δr) φφᵀ + I, φ = h_i - h_j the last layer's states;
                                                      one by one, the original pairs counted (2502.04354)
    shift         largest sum of both log-ratios      answers the policy has moved to most

No prompt gets more than its even share of the budget (rounded up), so that the labels are of many prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from holdtrue.errors import DataError
from holdtrue.intervals import wilson
from holdtrue.records import Group
from holdtrue.refresh import labels
from holdtrue.refresh.context import (
    Floats,
    Need,
    RefreshContext,
    RefreshReport,
    count_comparisons,
    named_counts,
    rewards,
)
from holdtrue.refresh.labels import Pair
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer


class FreshLabels(Refresh):
    """Train on the pairs and on newly labelled pairs of the policy's answers."""

    choose: Literal["random", "uncertainty", "disagreement", "d_optimal", "shift"] = "random"
    """What the budget is spent on."""
    members: int = Field(3, gt=1)
    """Models that ``disagreement`` trains to ask."""
    weight: float = Field(1.0, gt=0)
    """How many times a bought label counts beside an original pair: few are drowned by many pairs."""

    @property
    def needs(self) -> frozenset[Need]:
        ratios: frozenset[Need] = frozenset({"shifted log-ratios"} if self.choose == "shift" else ())
        return ratios | {"shifted", "labels"}

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh.fitting import fit

        found = rewards(context.current, context.shifted)
        pairs = [
            pair
            for pair in labels.pairs_of(context.shifted)
            if np.isfinite(found[pair.group][[pair.first, pair.second]]).all()
        ]
        if not pairs:
            raise DataError(
                "no prompt has two different answers that the model can read: there is nothing to label; a "
                "policy that gives one answer has collapsed: lower its learning rate or raise its kl_coef"
            )
        gaps = np.array([found[p.group][p.first] - found[p.group][p.second] for p in pairs], dtype=np.float64)
        chosen = spread(self._ranked(context, pairs, gaps), pairs, context.budget)
        asked = self._labelled(context, [pairs[i] for i in chosen])
        fresh = [group for group in asked if group is not None]
        if not fresh:
            raise DataError(f"the labeller gave no label for any of {len(asked)} pairs")
        right, decided = agreement(gaps[chosen], asked)
        low, high = wilson(right, decided)
        groups = [*self._known(context), *weighted(fresh, self.weight)]
        fitted = fit(context, groups)
        counts = Counter(
            {"pairs to choose from": len(pairs), "pairs without a label": len(asked) - len(fresh)}
        )
        numbers = {"accuracy_before": right / decided if decided else float("nan")}
        return fitted.scorer, RefreshReport(
            fitted.folder,
            labels=len(fresh),
            comparisons=count_comparisons(groups),
            numbers=numbers | {"accuracy_low": low, "accuracy_high": high},
            counts=named_counts(counts),
        )

    def _labelled(self, context: RefreshContext, pairs: Sequence[Pair]) -> list[Group | None]:
        """Each pair with its label. They are kept in ``labels.jsonl``, and one process asks for all."""
        assert context.labeller is not None
        file, world = context.folder / "labels.jsonl", context.world
        if world is None or world.main:
            labels.ask(labels.remembered(context.labeller, file), context.shifted, pairs)
        if world is not None:
            world.wait()
        return labels.ask(labels.remembered(context.labeller, file), context.shifted, pairs)

    def _ranked(self, context: RefreshContext, pairs: Sequence[Pair], gaps: Floats) -> Iterable[int]:
        """Pairs in the order they are to be bought; equal ones in random order."""
        shuffled = np.random.default_rng(context.seed).permutation(len(pairs))
        if self.choose == "random":
            return [int(i) for i in shuffled]
        if self.choose == "d_optimal":
            return self._d_optimal(context, pairs, gaps)
        if self.choose == "uncertainty":
            value = -np.abs(gaps)
        elif self.choose == "shift":
            ratios = context.shifted_log_ratios or ()
            value = np.array([ratios[p.group][p.first] + ratios[p.group][p.second] for p in pairs])
        else:
            value = self._disagreement(context, pairs)
        return [int(i) for i in shuffled[np.argsort(-value[shuffled], kind="stable")]]

    def _known(self, context: RefreshContext) -> list[Group]:
        """All that is labelled already."""
        return [*context.pairs, *weighted(context.bought, self.weight)]

    def _disagreement(self, context: RefreshContext, pairs: Sequence[Pair]) -> Floats:
        """Std over members of each pair's gap, in standard deviations of the member's rewards."""
        from holdtrue.refresh import fitting
        from holdtrue.reward.ensemble import scale_of

        gaps, known = [], self._known(context)
        for number, seed in enumerate(fitting.seeds(context.seed, self.members + 1)[1:], start=1):
            scorer = fitting.fit(context, known, f"member-{number}", seed=seed).scorer
            scale = scale_of(rewards(scorer, known[: fitting.REFERENCE]), f"member {number}")["std"]
            own = rewards(scorer, context.shifted)
            gaps.append([(own[p.group][p.first] - own[p.group][p.second]) / scale for p in pairs])
        found: Floats = np.array(gaps, dtype=np.float64).std(0)
        return found

    def _d_optimal(self, context: RefreshContext, pairs: Sequence[Pair], gaps: Floats) -> Iterable[int]:
        from holdtrue.refresh.fitting import REFERENCE
        from holdtrue.refresh.hidden import states

        known = [*context.bought, *context.pairs][:REFERENCE]
        old = [
            state[c.first] - state[c.second]
            for state, group in zip(states(context.current, known), known, strict=True)
            for c in group.comparisons
        ]
        new = states(context.current, context.shifted)
        features = np.array([new[p.group][p.first] - new[p.group][p.second] for p in pairs], dtype=np.float64)
        seen = np.array(old, dtype=np.float64)
        seen = seen[np.isfinite(seen).all(1)]
        most = min(len(pairs), context.budget * 4)  # more than are bought, as prompts have a cap
        return d_optimal(features, slope(gaps), seen, most)


def spread(ranked: Iterable[int], pairs: Sequence[Pair], budget: int) -> list[int]:
    """The first of the ranked pairs, ``budget`` of them, of no prompt more than its share."""
    ranked = list(ranked)
    most = ceil(budget / len({pair.group for pair in pairs}))
    taken: Counter[int] = Counter()
    chosen: list[int] = []
    left: list[int] = []
    for index in ranked:
        if taken[pairs[index].group] < most and len(chosen) < budget:
            taken[pairs[index].group] += 1
            chosen.append(index)
        else:
            left.append(index)
    return chosen + left[: budget - len(chosen)]


def weighted(groups: Iterable[Group], weight: float) -> list[Group]:
    """The groups with ``weight`` times the weight of each comparison."""
    return [
        replace(g, comparisons=tuple(replace(c, weight=c.weight * weight) for c in g.comparisons))
        for g in groups
    ]


def slope(gaps: Floats) -> Floats:
    """σ'(Δr): how much a label of the pair says of the parameters, per squared feature."""
    probability = 1 / (1 + np.exp(-np.clip(gaps, -60, 60)))
    found: Floats = probability * (1 - probability)
    return found


def d_optimal(features: Floats, weights: Floats, seen: Floats, count: int) -> list[int]:
    """Rows of features (n, D) that one after the other raise log det(I + Σ w φφᵀ) most.

    ``seen`` (m, D) are features counted from the start, at the largest weight 1/4. The gain of a row is
    log(1 + w φᵀA⁻¹φ), and A⁻¹ is updated by Sherman and Morrison's formula.
    """
    scale = np.sqrt(np.square(features).sum(1).mean()) or 1.0
    rows = features / scale * np.sqrt(weights)[:, None]
    inverse = np.linalg.inv(np.eye(rows.shape[1]) + 0.25 * (seen / scale).T @ (seen / scale))
    gains = np.einsum("nd,de,ne->n", rows, inverse, rows)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        best = int(gains.argmax())
        chosen.append(best)
        direction = inverse @ rows[best]
        inverse -= np.outer(direction, direction) / (1 + gains[best])
        gains = gains - np.square(rows @ direction) / (1 + gains[best])
        gains[chosen] = -np.inf
    return chosen


def agreement(gaps: Floats, asked: Sequence[Group | None]) -> tuple[float, float]:
    """How many labels that are no tie the rewards agree with (equal rewards half), and how many there are."""
    right = decided = 0.0
    for gap, group in zip(gaps.tolist(), asked, strict=True):
        preferred = None if group is None else group.comparisons[0].preferred
        if preferred is not None:
            ahead = gap if preferred[0] == 0 else -gap
            right += 1.0 if ahead > 0 else 0.5 if ahead == 0 else 0.0
            decided += 1
    return right, decided
