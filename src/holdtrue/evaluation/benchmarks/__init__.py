"""Benchmarks: published tests of reward models, each scored by the rule it was published with.

An item, usually one row, earns a credit. From there on all benchmarks are alike:

    subset  = mean credit of its items
    section = weighted mean of its subsets (published weights, else their numbers of items)
    score   = mean of the sections

Subsets of which the data hold no item are left out of these means and named. An item with an answer
that has no reward earns nothing: a model is not better for what it cannot read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import DataError, unknown
from holdtrue.evaluation.bootstrap import FEWEST_PROMPTS, quantiles, resampled_means
from holdtrue.evaluation.pairs import Floats, finite
from holdtrue.intervals import wilson
from holdtrue.kinds import Kind
from holdtrue.records import Group

FAMILY = "holdtrue.evaluation.benchmarks"
UNSCORED_RULE = "An item with an answer that has no reward counts as wrong."

Sections = Mapping[str, Mapping[str, float | None]]
"""Section -> subset -> its weight in the section; None is the number of its items."""


@dataclass(frozen=True)
class Item:
    """What earns one credit.

    Attributes:
        subset: where it counts.
        prompt: key of its prompt; items of one prompt are resampled together.
        credit: what it earned, 1 for a right answer.
        tied: a right answer has exactly the reward of a wrong one.
        unscored: an answer has no reward, so that the credit is 0.
        parts: what the credit is made of, by name, where the benchmark publishes that too.
    """

    subset: str
    prompt: str
    credit: float
    tied: bool
    unscored: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)


class Benchmark(Kind):
    """Base of the benchmarks."""

    sections: ClassVar[Sections]
    """What the score is made of."""
    layouts: ClassVar[tuple[str, ...]]
    """Data formats its rows come in."""
    hub: ClassVar[str | None] = None
    """``owner/name:split`` of the published rows, where a layout fits them."""
    tie_rule: ClassVar[str] = "Equal rewards count as wrong."
    """What equal rewards earn, as a sentence."""

    @abstractmethod
    def subset(self, group: Group) -> str:
        """Name of the subset a row belongs to.

        Raises:
            DataError: the row does not say, or names none of this benchmark.
        """

    def sides(self, group: Group) -> tuple[list[int], list[int]]:
        """Indices of the right and of the wrong answers, in the order of the row.

        Raises:
            DataError: the row does not say which answers are right.
        """
        decided = [comparison.preferred for comparison in group.comparisons]
        pairs = [pair for pair in decided if pair is not None]
        if not pairs or len(pairs) < len(decided):
            raise DataError(f"{_place(group)}: {self.name()} needs rows that say which answers are right")
        return list(dict.fromkeys(pair[0] for pair in pairs)), list(dict.fromkeys(pair[1] for pair in pairs))

    def earn(self, right: Floats, wrong: Floats) -> tuple[float, Mapping[str, float]]:
        """Credit and its parts for the rewards of the right and of the wrong answers of a row, all finite."""
        return float(right.min() > wrong.max()), {}

    def items(self, groups: Sequence[Group], rewards: Sequence[Floats]) -> list[Item]:
        """All that earns a credit; ``rewards`` holds (N answers,) per group, NaN where there is none."""
        return [self.item(group, found) for group, found in zip(groups, rewards, strict=True)]

    def item(self, group: Group, rewards: Floats) -> Item:
        """One row as an item."""
        subset = self.subset(group)
        right, wrong = (rewards[side] for side in self.sides(group))
        if np.isnan(rewards).any():
            return Item(subset, group.prompt_key, 0.0, tied=False, unscored=True)
        credit, parts = self.earn(right, wrong)
        return Item(subset, group.prompt_key, credit, bool(np.isin(right, wrong).any()), parts=parts)

    def check(self, groups: Sequence[Group]) -> None:
        """Find out, before a model spends hours on them, whether these rows can be scored.

        Raises:
            DataError: as :meth:`score` would.
        """
        self.items(groups, [np.zeros(len(group.answers)) for group in groups])

    def score(
        self,
        groups: Sequence[Group],
        rewards: Sequence[NDArray[np.floating]],
        unscored: Mapping[str, int],
        confidence: float = 0.95,
    ) -> dict[str, Any]:
        """The benchmark's result as one JSON object. Deterministic.

        ``score`` with its ``interval`` (bootstrap: prompts are drawn anew within each subset), the
        ``sections`` and ``subsets`` with their ``count`` of items, ``missing`` subsets, ``ties`` and
        ``unscored_items`` with the rules for both, and ``details``: section -> part -> mean.

        Args:
            groups: the rows, of at least one item.
            rewards: for each group (N answers,), NaN where an answer could not be scored.
            unscored: answers without a reward, by reason.
            confidence: level of the intervals.

        Raises:
            DataError: a row is not of this benchmark.
            ValueError: rewards and groups do not match.
        """
        if [np.shape(row) for row in rewards] != [(len(group.answers),) for group in groups]:
            raise ValueError(f"{self.name()}: each group needs one reward per answer")
        items = self.items(groups, finite(rewards))
        by_subset: dict[str, list[Item]] = {name: [] for part in self.sections.values() for name in part}
        for item in items:
            by_subset[item.subset].append(item)
        present = {name: found for name, found in by_subset.items() if found}
        drawn = {name: _resample(found, seed) for seed, (name, found) in enumerate(present.items())}
        weights = {section: self._weights(section, present) for section in self.sections}
        weights = {section: found for section, found in weights.items() if found}
        total = {name: w / len(weights) for found in weights.values() for name, w in found.items()}

        def measure(shares: Mapping[str, float]) -> dict[str, Any]:
            return _measure(shares, present, drawn, confidence)

        return {
            "benchmark": self.name(),
            **measure(total),
            "confidence": confidence,
            "sections": [{"name": section, **measure(found)} for section, found in weights.items()],
            "subsets": [
                {"name": name, "section": section, "weight": weight, **measure({name: 1.0})}
                for section, found in weights.items()
                for name, weight in found.items()
            ],
            "missing": [name for name, found in by_subset.items() if not found],
            "details": _details(weights, present),
            "tie_rule": self.tie_rule,
            "unscored_rule": UNSCORED_RULE,
            "unscored": {reason: int(count) for reason, count in unscored.items() if count},
        }

    def _weights(self, section: str, present: Mapping[str, list[Item]]) -> dict[str, float]:
        """Weights, of sum 1, of the subsets of a section that the data hold."""
        raw = {
            name: float(len(present[name]) if weight is None else weight)
            for name, weight in self.sections[section].items()
            if name in present
        }
        return {name: weight / sum(raw.values()) for name, weight in raw.items()}


def column(benchmark: Benchmark, group: Group, name: str, known: Sequence[str]) -> str:
    """What a row has in the metadata column that names its subset.

    Raises:
        DataError: the column is missing, or holds none of ``known``.
    """
    value = group.meta.get(name)
    if value is None:
        raise DataError(f"{_place(group)}: {benchmark.name()} needs a column {name!r}: {', '.join(known)}")
    if value not in known:
        raise DataError(f"{_place(group)}: {unknown(f'{name} of {benchmark.name()}', str(value), known)}")
    return str(value)


def _place(group: Group) -> str:
    return str(group.source or "a row")


def _resample(items: Sequence[Item], seed: int) -> Floats:
    numbers = {key: number for number, key in enumerate(dict.fromkeys(item.prompt for item in items))}
    prompt = np.array([numbers[item.prompt] for item in items])
    return resampled_means(np.array([item.credit for item in items]), prompt, seed)


def _measure(
    shares: Mapping[str, float],
    present: Mapping[str, list[Item]],
    drawn: Mapping[str, Floats],
    confidence: float,
) -> dict[str, Any]:
    """Weighted mean of subsets, with interval and counts.

    With fewer than 10 prompts, or when every resampling gives the same, the bootstrap would be too
    narrow. Then Wilson with as many observations as the prompts are worth under these weights,
    1 / Σ share² / prompts.
    """
    items = [item for name in shares for item in present[name]]
    prompts = len({item.prompt for item in items})
    score = sum(share * _mean([item.credit for item in present[name]]) for name, share in shares.items())
    draws = sum((share * drawn[name] for name, share in shares.items()), np.zeros(1))
    if prompts < FEWEST_PROMPTS or np.ptp(draws) == 0:
        distinct = {name: len({item.prompt for item in present[name]}) for name in shares}
        worth = 1 / sum(share**2 / distinct[name] for name, share in shares.items())
        low, high = wilson(min(max(score, 0.0), 1.0) * worth, worth, confidence)
        method = "wilson over prompts"
    else:
        low, high = map(float, quantiles(draws, confidence))
        method = "bootstrap by prompt"
    return {
        "score": score,
        "interval": [low, high],
        "interval_method": method,
        "count": len(items),
        "prompts": prompts,
        "ties": sum(item.tied for item in items),
        "unscored_items": sum(item.unscored for item in items),
    }


def _details(
    weights: Mapping[str, Mapping[str, float]], present: Mapping[str, list[Item]]
) -> dict[str, dict[str, float]]:
    """Section -> part -> weighted mean, and under ``all`` the mean of the sections when all have parts.

    An unscored item has 0 in every part.
    """
    details: dict[str, dict[str, float]] = {}
    for section, shares in weights.items():
        parts = dict.fromkeys(part for name in shares for item in present[name] for part in item.parts)
        if parts:
            details[section] = {
                part: sum(
                    share * _mean([item.parts.get(part, 0.0) for item in present[name]])
                    for name, share in shares.items()
                )
                for part in parts
            }
    if 1 < len(details) == len(weights):
        rows = list(details.values())
        details["all"] = {part: _mean([row[part] for row in rows]) for part in rows[0]}
    return details


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
