"""What the ids of a tokenizer mean for the health of rollouts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

ATTRACTORS = ("addCriterion", "matchCondition", "_marker", "bezpo")
"""Rare tokens Qwen models fall into when attention or precision is wrong (QwenLM/Qwen3-VL#759)."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids by their meaning.

    Attributes:
        eos: every id that may end an answer: all the generation config declares, not the first alone.
        control: special ids that must not stand inside an answer.
        size: ids from here on have a row in the model but no token (phantom ids); None: unknown.
        pad: fills rows up; stripped from their ends.
        attractors: ids of tokens that broken numerics fall into.
        digits: ids of tokens that are digits.
    """

    eos: frozenset[int] = frozenset()
    control: frozenset[int] = frozenset()
    size: int | None = None
    pad: int | None = None
    attractors: frozenset[int] = frozenset()
    digits: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Any, eos: Iterable[int] = ()) -> Vocabulary:
        """Read from a transformers tokenizer.

        Args:
            tokenizer: its added tokens marked special are control ids, unless they may end an answer.
            eos: ids that end an answer beside the tokenizer's own; give those of ``generation_config.json``.
        """
        own = tokenizer.eos_token_id
        ends = frozenset([*eos, *([] if own is None else [own])])
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        words = {token.lstrip("Ġ▁ "): i for token, i in tokenizer.get_vocab().items()}
        return cls(
            eos=ends,
            control=frozenset(special | set(tokenizer.all_special_ids)) - ends,
            size=max(tokenizer.get_vocab().values(), default=-1) + 1,
            pad=tokenizer.pad_token_id,
            attractors=frozenset(words[word] for word in ATTRACTORS if word in words),
            digits=frozenset(
                i for token, i in tokenizer.get_vocab().items() if token.lstrip("Ġ▁ ").isdigit()
            ),
        )

    @cached_property
    def numbers(self) -> NDArray[np.bool_] | None:
        """(V,) True for digits, as :class:`~holdtrue.health.stream.LoopDetector` takes them, if any."""
        if not self.digits:
            return None
        table = np.zeros(max(self.digits) + 1, dtype=np.bool_)
        table[list(self.digits)] = True
        return table

    def strip(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A row without the padding at its end; where padding may end an answer, one such token stays."""
        if self.pad is None or not len(ids) or ids[-1] != self.pad:
            return ids
        written = len(ids) - int((ids[::-1] != self.pad).argmax()) if (ids != self.pad).any() else 0
        ended = written > 0 and int(ids[written - 1]) in self.eos
        return ids[: written + (self.pad in self.eos and not ended)]

    def banned(self, width: int) -> NDArray[np.int64]:
        """Ids no answer may hold, of a model with ``width`` logits: control and phantom ids, never an end."""
        ids = set(self.control)
        if self.size is not None:
            ids |= set(range(self.size, width))
        return np.array(sorted(i for i in ids - self.eos if i < width), dtype=np.int64)
