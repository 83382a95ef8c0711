"""Rows of an embedding or output matrix that training never moved: found by size, by twins, by direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from holdtrue.doctor.weights import RowStatistics, Tensor

ZERO = 1e-16
"""Largest absolute value of a row that counts as zero (Unsloth's and axolotl's rule)."""
SMALL = 0.2
"""Norm of a row, as a share of the median norm, below which it counts as untrained."""
LOWEST = 0.02
"""Share of the vocabulary nearest to known-unused rows that is suspected at most (Magikarp)."""
ALIKE = 0.5
"""Cosine with their mean that 95 % of the known-unused rows must reach to count as one direction (ours)."""
KNOWN = 8
"""Known-unused rows below which their direction is not trusted."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Untrained:
    """Untrained rows of one matrix, by the rule that found them; ``all`` sorted."""

    matrix: str
    by_rule: Mapping[str, Rows]

    @property
    def all(self) -> Rows:
        return np.unique(np.concatenate([np.empty(0, np.int64), *self.by_rule.values()]))

    def rules_of(self, row: int) -> list[str]:
        return [rule for rule, rows in self.by_rule.items() if row in rows]


def untrained(matrix: Tensor, rows: RowStatistics, vocabulary: int | None = None) -> Untrained:
    """Rows that training never moved: the union of four rules.

        zero        max |x| <= 1e-16
        small       |x| < 0.2 · median |x|
        identical   two or more rows that point the same way (cosine above about 0.999)
        like unused  the direction of x - mean is nearer to that of known-unused rows than all but 2 %

    The last rule needs rows known to be unused: those at and beyond ``vocabulary``, ids no tokenizer gives.
    It speaks only where these rows have one direction (95 % of them with cosine above 0.5 to their mean) that
    98 % of the others do not share: random rows have none.
    Source: Land and Bartolo, 2024 (Magikarp), arXiv:2405.05417, section 3.
    """
    peaks, norms = rows.peaks, rows.norms
    median = float(np.median(norms[norms > 0])) if (norms > 0).any() else 0.0
    finite = np.isfinite(peaks)
    zero = peaks <= ZERO
    found = {
        "zero": zero,
        "small": ~zero & (norms < SMALL * median),
        "identical": ~zero & finite & _shared(rows.codes),
        "like unused": _like_unused(matrix, norms, vocabulary),
    }
    return Untrained(matrix.name, {rule: np.flatnonzero(mask) for rule, mask in found.items() if mask.any()})


def _shared(codes: Rows) -> NDArray[np.bool_]:
    """Whether a row shares a code with another one, in any column."""
    found = np.zeros(len(codes), bool)
    for column in codes.T:
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        found |= counts[inverse] > 1
    return found


def _like_unused(matrix: Tensor, norms: NDArray[np.float32], vocabulary: int | None) -> NDArray[np.bool_]:
    none = np.zeros(matrix.rows, bool)
    if vocabulary is None or matrix.rows - vocabulary < KNOWN or vocabulary < 100:
        return none
    unused = matrix.read(vocabulary, matrix.rows).mean(axis=0, dtype=np.float64)
    mean = np.zeros(matrix.width)
    for _, chunk in matrix.chunks():
        mean += chunk.sum(axis=0, dtype=np.float64) / matrix.rows
    direction = unused - mean
    if not np.isfinite(direction).all() or not direction.any():
        return none
    towards = np.stack([direction / np.linalg.norm(direction), mean], axis=1).astype(np.float32)
    cosines = np.empty(matrix.rows, np.float32)
    for first, chunk in matrix.chunks():
        along, at_mean = (chunk @ towards).T
        centred = norms[first : first + len(chunk)] ** 2 - 2 * at_mean + float(mean @ mean)
        shift = np.float32(mean @ towards[:, 0])
        cosines[first : first + len(chunk)] = (along - shift) / np.sqrt(np.maximum(centred, 1e-12))
    line = float(np.percentile(cosines[vocabulary:], 5))
    if line <= max(ALIKE, float(np.percentile(cosines[:vocabulary], 100 * (1 - LOWEST)))):
        return none
    found: NDArray[np.bool_] = cosines >= line
    return found


def ranges(ids: Sequence[int] | Rows) -> list[tuple[int, int]]:
    """Sorted ids as ranges ``[first, last]``, both ends included."""
    ids = [int(one) for one in ids]
    cuts = [0, *(i + 1 for i, (one, other) in enumerate(pairwise(ids)) if other != one + 1), len(ids)]
    return [(ids[start], ids[end - 1]) for start, end in pairwise(cuts)] if ids else []


def show_ranges(ids: Sequence[int] | Rows, most: int = 6) -> str:
    """``"3, 7-12, 40-41 and 5 more ranges"``."""
    found = ranges(ids)
    named = [str(first) if first == last else f"{first}-{last}" for first, last in found[:most]]
    rest = len(found) - most
    return ", ".join(named) + (f" and {rest} more range{'s' * (rest > 1)}" if rest > 0 else "")
