"""Near duplicates among texts, in time linear in their length (up to a sort).

Two texts are near duplicates when their words are equal after case and punctuation are folded away,
or when at least 70 % of their runs of five words are shared:

    J(a, b) = |runs of a ∩ runs of b| / |runs of a ∪ runs of b| >= 0.7

One changed word spoils five runs, so 0.7 forgives about one word in thirty, while texts that only
share a template or a quotation stay apart. J is estimated from the 64 smallest hashes of each text
(exact for texts of up to 68 words, standard error about 0.06 beyond; Broder, 1997). A text is compared
with at most four earlier texts: those that were the first to have most of its hashes, where a hash that
few texts have counts for more, so that twins are found below a template that all texts share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

RUN = 5
THRESHOLD = 0.7
SKETCH = 64

_CANDIDATES = 4
_RARE = 0.1  # of a text's hashes: what twins have to themselves, whatever they share with others
_WORD = re.compile(r"\w+")
_MIX = np.array([pow(0x9E3779B97F4A7C15, j + 1, 2**64) for j in range(RUN)], dtype=np.uint64)
_SPREAD = np.uint64(0x94D049BB133111EB)
_SHIFT = np.uint64(29)
_ALL_BITS, _HASH_BITS = np.uint64(64), np.uint64(44)
_BLOCK = 1 << 18  # words hashed together: 100 bytes each for a moment; the document has 20 bits

Hashes = NDArray[np.uint64]


class _Vocabulary(dict[str, int]):
    """Numbers words in the order they are first met."""

    def __missing__(self, word: str) -> int:
        self[word] = len(self) + 1
        return self[word]


def near_classes(texts: Iterable[str]) -> list[int]:
    """For each text the index of the earliest text it is a near duplicate of (its own if of none)."""
    found = NearDuplicates()
    for text in texts:
        found.add(text)
    return found.classes()


class NearDuplicates:
    """Near duplicates among texts that come one by one; of each text its sketch is kept, 512 bytes."""

    def __init__(self) -> None:
        self._vocabulary = _Vocabulary()
        self._first_with: dict[int | str, int] = {}
        self._classes: list[int] = []
        self._distinct: list[int] = []
        self._sketches: list[Hashes] = []
        self._block: list[tuple[int, ...]] = []
        self._held = 0

    def add(self, text: str) -> None:
        """The next text."""
        i = len(self._classes)
        words = tuple(map(self._vocabulary.__getitem__, _WORD.findall(text.casefold())))
        first = self._first_with.setdefault(hash(words) if words else text.strip(), i)
        self._classes.append(first)
        if first == i and len(words) >= RUN:
            self._distinct.append(i)
            self._block.append(words)
            self._held += len(words)
        if self._held > _BLOCK:
            self._sketch()

    def classes(self) -> list[int]:
        """For each text the index of the earliest text it is a near duplicate of (its own if of none)."""
        self._sketch()
        classes = list(self._classes)
        for later, earlier in _matches(self._sketches):
            classes[self._distinct[later]] = classes[self._distinct[earlier]]
        return [classes[first] for first in classes]

    def _sketch(self) -> None:
        self._sketches += _sketches(self._block)
        self._block, self._held = [], 0


def _sketches(texts: Sequence[tuple[int, ...]]) -> list[Hashes]:
    """For each text (as word numbers) the smallest distinct hashes of its runs of words, sorted."""
    if not texts:
        return []
    sizes = np.array([len(words) for words in texts])
    document = np.repeat(np.arange(len(texts), dtype=np.uint64), sizes)
    words = _scrambled(np.fromiter(chain.from_iterable(texts), dtype=np.uint64, count=sizes.sum()))
    inside = document[: 1 - RUN] == document[RUN - 1 :]
    runs = _scrambled(sliding_window_view(words, RUN)[inside] @ _MIX)
    # The document in the high bits: one sort orders the hashes of every document.
    tagged = np.sort((document[: 1 - RUN][inside] << _HASH_BITS) | (runs >> (_ALL_BITS - _HASH_BITS)))
    tagged = tagged[np.append(True, tagged[1:] != tagged[:-1])]
    bounds = np.searchsorted(tagged, np.arange(len(texts) + 1, dtype=np.uint64) << _HASH_BITS).tolist()
    hashes = tagged & ((np.uint64(1) << _HASH_BITS) - np.uint64(1))
    # Copies: a view would keep the hashes of the whole block.
    return [hashes[start : min(start + SKETCH, end)].copy() for start, end in pairwise(bounds)]


def _scrambled(values: Hashes) -> Hashes:
    mixed: Hashes = values * _SPREAD
    mixed ^= mixed >> _SHIFT
    mixed *= _MIX[0]
    return mixed


def _matches(sketches: Sequence[Hashes]) -> list[tuple[int, int]]:
    """(later, earlier) pairs of near duplicates, each later text at most once, in order."""
    if not sketches:
        return []
    count = len(sketches)
    sizes = np.array([len(sketch) for sketch in sketches])
    document = np.repeat(np.arange(count), sizes)
    _, first, inverse, holders = np.unique(
        np.concatenate(sketches), return_index=True, return_inverse=True, return_counts=True
    )
    owner = document[first][inverse]
    borrowed = owner < document
    keys, pair, shared = np.unique(
        document[borrowed] * count + owner[borrowed], return_inverse=True, return_counts=True
    )
    rarity = np.bincount(pair, weights=1 / (holders[inverse][borrowed] - 1), minlength=len(keys))
    later, earlier = keys // count, keys % count
    likely = (shared >= THRESHOLD / 2 * sizes[later]) | (rarity >= _RARE * sizes[later])
    found: list[tuple[int, int]] = []
    tried, matched = np.zeros(count, dtype=int), np.zeros(count, dtype=bool)
    order = np.lexsort((-shared[likely], -rarity[likely], later[likely]))
    for one, other in zip(later[likely][order].tolist(), earlier[likely][order].tolist(), strict=True):
        if matched[one] or tried[one] == _CANDIDATES:
            continue
        tried[one] += 1
        if _jaccard(sketches[one], sketches[other]) >= THRESHOLD:
            matched[one] = True
            found.append((one, other))
    return found


def _jaccard(one: Hashes, other: Hashes) -> float:
    union = np.union1d(one, other)[:SKETCH]
    both = np.intersect1d(one, other, assume_unique=True)
    return float(np.isin(union, both, assume_unique=True).mean())
