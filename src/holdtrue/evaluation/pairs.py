"""The scored comparisons of a data set as columns, the preferred side of each first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from holdtrue.records import Group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Rewards are float32 by contract; beyond its range a number is as good as none, and gaps would overflow.
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Pairs:
    """B comparisons whose two answers both have a reward.

    Attributes:
        gap: (B,) reward of the preferred answer minus that of the other.
        label: (B,) P(preferred side preferred), in [0.5, 1]. At 0.5 raters saw a tie.
        length_gap: (B,) characters of the preferred answer minus those of the other.
        prompt: (B,) number of the prompt; equal for equal prompts, whatever group they stand in.
        group: (B,) index into the groups.
        preferred, other: (B,) indices into the group's answers.
        unscored: comparisons left out because a side has no finite reward.
    """

    gap: Floats
    label: Floats
    length_gap: Floats
    prompt: Ints
    group: Ints
    preferred: Ints
    other: Ints
    unscored: int

    @property
    def decided(self) -> Bools:
        """(B,) True where raters preferred one side."""
        return self.label > 0.5

    def __len__(self) -> int:
        return len(self.gap)

    def take(self, rows: Bools) -> Pairs:
        """The comparisons where ``rows`` (B,) is True."""
        return replace(
            self,
            gap=self.gap[rows],
            label=self.label[rows],
            length_gap=self.length_gap[rows],
            prompt=self.prompt[rows],
            group=self.group[rows],
            preferred=self.preferred[rows],
            other=self.other[rows],
        )


def finite(rewards: Sequence[NDArray[np.floating]]) -> list[Floats]:
    """Rewards as float64, NaN for every number that is not finite in float32."""
    columns = [np.asarray(row, dtype=np.float64) for row in rewards]
    return [np.where(np.abs(row) <= _LARGEST, row, np.nan) for row in columns]


def collect(groups: Sequence[Group], rewards: Sequence[Floats], lengths: Sequence[Ints]) -> Pairs:
    """Comparisons of all groups; ``rewards[i]`` and ``lengths[i]`` are (N answers of group i,)."""
    gaps: list[tuple[float, float, int]] = []
    places: list[tuple[int, int, int, int]] = []
    prompts: dict[str, int] = {}
    unscored = 0
    for index, group in enumerate(groups):
        if not group.comparisons:
            continue
        prompt = prompts.setdefault(group.prompt_key, len(prompts))
        for comparison in group.comparisons:
            i, j = comparison.preferred or (comparison.first, comparison.second)
            label = max(comparison.label, 1 - comparison.label)
            gap = float(rewards[index][i] - rewards[index][j])
            if np.isnan(gap):
                unscored += 1
                continue
            gaps.append((gap, label, int(lengths[index][i] - lengths[index][j])))
            places.append((prompt, index, i, j))
    gap_column, label_column, length_column = np.array(gaps, dtype=np.float64).reshape(-1, 3).T
    prompt_column, row, first, second = np.array(places, dtype=np.int64).reshape(-1, 4).T
    return Pairs(
        gap_column, label_column, length_column, prompt_column, row, first, second, unscored=unscored
    )
