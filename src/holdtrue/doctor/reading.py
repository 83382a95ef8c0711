"""A rollout as the detectors read it: its text, its token ids, and what repeats in them, found once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.health import repetition
from holdtrue.records import Messages, Rollout, flatten

TEXT_GRAM = 20
"""Characters: three or four words, so that a gram is rarely repeated by chance."""
TOKEN_GRAM = 6

CONTROL = re.compile(
    r"<\|(?!(?:channel|message|constrain|python_tag|begin_of_box|end_of_box|box_start|box_end|tool)\w*\|>)"
    r"[A-Za-z_][\w.-]{2,39}\|>|<｜(?!tool)[^｜<>]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
)
"""Control tokens as decoded text: ChatML, Llama, Mistral, Gemma, DeepSeek. Tags such as ``<think>``, channels
and the marks of tool calls and boxes are written on purpose."""
_ENDS = (
    *("</s>", "<eos>", "<pad>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>"),
    *(f"<|{name}|>" for name in ("im_end", "endoftext", "end_of_text", "eot_id", "eom_id", "eot")),
    *(f"<|{name}|>" for name in ("end", "return", "call")),
)
"""End tokens, which engines keep at the end of a text on request."""
_TOOL_TURN = re.compile(
    r"(?:<\|im_end\|>|<\|eo[tm]_id\|>)\s{0,8}(?:<\|im_start\|>(?:user|tool)\s{0,8}<tool_response>"
    r"|<\|start_header_id\|>(?:ipython|tool)<\|end_header_id\|>)"
)
_AFTER_TOOL = re.compile(
    r"<\|im_end\|>\s{0,8}<\|im_start\|>assistant\n"
    r"|<\|eot_id\|>\s{0,8}<\|start_header_id\|>assistant<\|end_header_id\|>"
)


def tool_turns(text: str, end: int) -> Iterator[tuple[int, int]]:
    """Where tools' turns stand inside one text, as engines write rollouts of several turns."""
    at = 0
    while (begin := _TOOL_TURN.search(text, at, end)) is not None:
        after = _AFTER_TOOL.search(text, begin.end(), end)
        if after is None:
            return
        yield begin.start(), after.end()
        at = after.end()


@dataclass(frozen=True)
class Grams:
    """The grams of a sequence: where each stands, and its hash."""

    at: NDArray[np.intp]
    hashes: NDArray[np.uint64]
    width: int


@dataclass(frozen=True)
class Reading:
    """A rollout with what detectors ask of it."""

    rollout: Rollout
    vocabulary: Vocabulary | None = None

    @cached_property
    def text(self) -> str:
        """The answer as text; decoded from its ids where the file has no text."""
        text = self.rollout.text
        if text or self.vocabulary is None or not self.rollout.completion_ids:
            return text
        return self.vocabulary.decode(self.rollout.completion_ids)

    @cached_property
    def prompt(self) -> str:
        """The prompt as text."""
        return flatten(self.rollout.prompt)

    @cached_property
    def end(self) -> int:
        """Where the text's end tokens begin, or its trailing space."""
        text = self.text
        end = len(text.rstrip())
        while text.endswith(_ENDS, 0, end):
            end -= next(len(one) for one in _ENDS if text.endswith(one, 0, end))
            while end and text[end - 1].isspace():
                end -= 1
        return end

    @cached_property
    def own(self) -> list[tuple[int, int]]:
        """The stretches of the text before :attr:`end` that the policy wrote; tools wrote the others."""
        if not isinstance(self.rollout.answer, str):
            return self._of_turns(self.rollout.answer)
        if "<|" not in self.text:
            return [(0, self.end)]
        stretches, start = [], 0
        for first, last in tool_turns(self.text, self.end):
            stretches.append((start, first))
            start = last
        return [*stretches, (start, self.end)]

    @property
    def turns(self) -> list[tuple[int, Reading]]:
        """Each stretch that the policy wrote by itself, with where it begins; most answers are one."""
        if len(self.own) == 1 and self.own[0][0] == 0:
            return [(0, self)]  # not kept: a reading that holds itself stays in memory with all its grams
        return self._turns

    @cached_property
    def _turns(self) -> list[tuple[int, Reading]]:
        rollout = self.rollout
        return [
            (start, Reading(replace(rollout, answer=self.text[start:end], completion_ids=None)))
            for start, end in self.own
        ]

    def _of_turns(self, turns: Messages) -> list[tuple[int, int]]:
        stretches, start = [], 0
        for turn in turns:
            if turn.role == "assistant":
                stretches.append((start, min(start + len(turn.content), self.end)))
            start += len(turn.content) + 2  # the blank line between turns
        return stretches or [(0, self.end)]

    def find(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        """Every match in what the policy wrote."""
        for start, end in self.own:
            yield from pattern.finditer(self.text, start, end)

    @cached_property
    def body(self) -> NDArray[np.int64]:
        """Token ids without the end and pad tokens at the end."""
        ids = np.asarray(self.rollout.completion_ids or [], dtype=np.int64)
        if self.vocabulary is None or not len(ids):
            return ids
        inner = np.flatnonzero(~np.isin(ids, list(self.vocabulary.ends)))
        return ids[: inner[-1] + 1] if len(inner) else ids[:0]

    @cached_property
    def policy_wrote(self) -> NDArray[np.bool_]:
        """For each token of the body, whether the policy wrote it."""
        mask = self.rollout.loss_mask
        if mask is None or len(mask) < len(self.body):
            return np.ones(len(self.body), dtype=bool)
        return np.asarray(mask[: len(self.body)], dtype=bool)

    @cached_property
    def symbols(self) -> NDArray[np.uint32]:
        """Code points of the text before :attr:`end`."""
        return repetition.codes(self.text[: self.end])

    @cached_property
    def exact(self) -> Grams:
        """Grams of the text as it stands."""
        return _grams(np.arange(len(self.symbols)), self.symbols, TEXT_GRAM)

    @cached_property
    def loose(self) -> Grams:
        """Grams of the text with digits as one symbol and long runs of one symbol cut."""
        symbols = repetition.without_digits(self.symbols)
        at = repetition.without_rules(symbols)
        if len(at) == len(symbols):
            return self.exact if np.array_equal(symbols, self.symbols) else _grams(at, symbols, TEXT_GRAM)
        return _grams(at, symbols[at], TEXT_GRAM)

    @cached_property
    def worded(self) -> NDArray[np.bool_]:
        """For each gram of :attr:`loose`, whether half of it or more is letters: it is no row of numbers."""
        symbols = self.symbols[self.loose.at]
        letters = ((symbols | 32) >= 97) & ((symbols | 32) <= 122) | (symbols >= 0xC0)
        total = np.concatenate([[0], np.cumsum(letters)])
        return np.asarray(total[TEXT_GRAM:] - total[:-TEXT_GRAM] >= TEXT_GRAM / 2)[: len(self.loose.hashes)]

    @cached_property
    def strict(self) -> Grams:
        """Grams as :attr:`loose` has them, with their digits."""
        at = self.loose.at
        return _grams(at, self.symbols[at], TEXT_GRAM)

    @cached_property
    def tokens(self) -> Grams:
        """Grams of the body's ids."""
        return _grams(np.arange(len(self.body)), self.body, TOKEN_GRAM)

    def characters(self, start: int, end: int) -> tuple[int | None, int | None]:
        """Where tokens ``start`` to ``end`` stand in the text; None where it is not what they decode to."""
        ids = self.rollout.completion_ids
        if self.vocabulary is None or ids is None:
            return None, None
        decode = self.vocabulary.decode
        if not decode(list(ids)).lstrip().startswith(self.text[: self.end].strip()):
            return None, None
        first = len(decode(list(ids[:start])))
        return min(first, len(self.text)), min(first + len(decode(list(ids[start:end]))), len(self.text))


def _grams(at: NDArray[np.intp], symbols: NDArray[np.integer], width: int) -> Grams:
    return Grams(at, repetition.hashes(symbols, width), width)


def quote(text: str, most: int = 80) -> str:
    """Text for evidence: one line, control characters spelled, cut in the middle."""
    shown = text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return repr(shown)
