"""What token ids mean: which exist, which are control tokens, which end an answer, and their text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdtrue.doctor.subject import Missing, Subject
from holdtrue.errors import ModelError
from holdtrue.health import vocabulary


@dataclass(frozen=True)
class Vocabulary:
    """The token ids of a model.

    Attributes:
        size: ids from ``size`` on are phantoms: rows of the logits without a token.
        control: text of every control token, those that end an answer among them.
        ends: ids that may end an answer: as tokenizer, generation config, template and family say; and pad.
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
        known = vocabulary.Vocabulary.of(tokenizer, _declared(subject) | _usual(subject))
        ends = known.eos | ({known.pad} if known.pad is not None else set())
        texts = {id: str(token.content) for id, token in tokenizer.added_tokens_decoder.items()}
        control = {id: texts[id] for id in sorted(known.control | ends) if id in texts}
        size = known.size or len(tokenizer)
        return cls(size, control, frozenset(ends), _decoder(tokenizer), _width(subject))

    def names(self, ids: Sequence[int]) -> str:
        """Ids with their text, for people."""
        return ", ".join(f"{id} {self.control[id]}" if id in self.control else str(id) for id in ids)


def _usual(subject: Subject) -> set[int]:
    """What the chat template ends a turn with, and what the family's models are known to end with."""
    family, tokenizer = subject.family, subject.tokenizer
    texts = family.ends if family else ()
    known = {tokenizer.convert_tokens_to_ids(text) for text in texts if text in tokenizer.get_vocab()}
    try:
        return known | set(subject.template.turn_end)
    except Missing:
        return known


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
