"""What token ids mean: which exist, which are control tokens, which end an answer, and their text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdtrue.doctor.subject import Missing, Subject
from holdtrue.errors import ModelError


@dataclass(frozen=True)
class Vocabulary:
    """The token ids of a model.

    Attributes:
        size: ids from ``size`` on are phantoms: rows of the logits without a token.
        control: text of every special token that is no tag of thinking or tools.
        ends: ids that may end an answer: the tokenizer's and the generation config's EOS and pad.
        decode: text of ids, special tokens kept.
        width: rows of the logits, where the model's config says it.
    """

    size: int
    control: Mapping[int, str]
    ends: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    width: int | None = None

    @classmethod
    def of(cls, folder: str | Path) -> Vocabulary:
        """Read the tokenizer in a folder, and the end tokens of its generation config.

        Raises:
            ModelError: there is no tokenizer.
        """
        subject = Subject(Path(folder))
        try:
            tokenizer = subject.tokenizer
        except Missing as missing:
            raise ModelError(f"{folder}: {missing}; rollouts need the tokenizer that sampled them") from None
        ends = {tokenizer.eos_token_id, tokenizer.pad_token_id} | _declared(subject)
        control = {
            id: token.content
            for id, token in tokenizer.added_tokens_decoder.items()
            if token.special and not is_tag(token.content)
        }
        return cls(len(tokenizer), control, frozenset(ends - {None}), _decoder(tokenizer), _width(subject))

    def names(self, ids: Sequence[int]) -> str:
        """Ids with their text, for people."""
        return ", ".join(f"{id} {self.control[id]}" if id in self.control else str(id) for id in ids)


def is_tag(token: str) -> bool:
    """Tokens that models write on purpose: ``<think>``, ``</tool_call>`` and the like."""
    return any(word in token for word in ("think", "tool_call", "tool_response"))


def _declared(subject: Subject) -> set[int]:
    try:
        ends = subject.generation_config.get("eos_token_id")
    except Missing:
        return set()
    return {end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)}


def _width(subject: Subject) -> int | None:
    try:
        config = subject.config
    except Missing:
        return None
    rows = config.get("vocab_size", dict(config.get("text_config") or {}).get("vocab_size"))
    return rows if isinstance(rows, int) else None


def _decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    def decode(ids: Sequence[int]) -> str:
        known = [id for id in ids if 0 <= id < len(tokenizer)]
        return str(tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return decode
