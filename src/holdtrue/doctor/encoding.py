"""Examples as a model reads them: rendered by the chat template, encoded, with the tokens of each turn."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.data.examples import Example, Turn, beside, content_of
from holdtrue.doctor.reading import CONTROL
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.tallies import of_encoded

Ids = NDArray[np.int32]
BATCH = 64
"""Examples encoded at a time: the offsets of their tokens take ten times the room of the ids."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start`` to ``end`` (exclusive) are the text of message ``turn``, said by ``role``; what an
    answer says beside its content is of ``assistant thought`` and ``assistant call``.
    """

    role: str
    start: int
    end: int
    turn: int = 0


@dataclass(frozen=True)
class Encoded:
    """An example's tokens.

    Attributes:
        spans: the turns' texts; tokens outside of them were written by the template.
        learned: the spans to be learned; none where there are none, or the template wrote none of them.
        target: from the first to the last token of these; None without.
        fault: why the template refused the example; then there are no tokens.
        rejected: tokens of the answer that lost (pairs only).
    """

    example: Example
    ids: Ids
    spans: tuple[Span, ...] = ()
    fault: str | None = None
    rejected: int | None = None

    @cached_property
    def learned(self) -> tuple[Span, ...]:
        if self.example.target is None:
            return ()
        last = max(len(self.example.messages) - 1, 0)
        return tuple(span for span in self.spans if span.turn == last)

    @cached_property
    def target(self) -> Span | None:
        if not self.learned:
            return None
        start, end = min(span.start for span in self.learned), max(span.end for span in self.learned)
        return replace(self.learned[0], start=start, end=end)

    def target_holds(self, id: int) -> bool:
        """Whether a token stands in the texts that are to be learned."""
        return any(bool((self.ids[span.start : span.end] == id).any()) for span in self.learned)


def encode(examples: Iterable[Example], tokenizer: Any) -> Iterator[Encoded]:
    """Render and encode examples one after the other, as training does: special tokens in the text are read
    as such. Without a chat template conversations are their turns, one a line.

    Raises:
        Missing: the tokenizer cannot say which characters a token stands for.
    """
    if not tokenizer.is_fast:
        raise Missing("a fast tokenizer, which says which characters a token stands for")
    backend = tokenizer.backend_tokenizer
    added = tokenizer.added_tokens_decoder
    ends = {id for id in {*added, *tokenizer.all_special_ids} if id not in added or added[id].special}
    backend.no_truncation()
    backend.no_padding()
    rows = iter(examples)
    while batch := list(islice(rows, BATCH)):
        rendered = [_rendered(one, tokenizer) for one in batch]
        encodings = backend.encode_batch([text or "" for text, _ in rendered], add_special_tokens=False)
        lost = [content_of(one.rejected[-1]) for one in batch if one.rejected]
        of_lost = iter(backend.encode_batch(lost, add_special_tokens=False))
        for one, (text, fault), encoding in zip(batch, rendered, encodings, strict=True):
            rejected = len(next(of_lost)) if one.rejected else None
            if text is None:
                yield Encoded(one, np.empty(0, np.int32), fault=fault)
                continue
            ids = np.array(encoding.ids, np.int32)
            spans = [Span("text", 0, len(ids))] if one.text is not None else _spans(one, text, encoding)
            if is_rendered(one):
                spans = [_without_end(span, ids, ends) for span in spans if span.role == "assistant"]
            yield Encoded(one, ids, tuple(spans), rejected=rejected)


@of_encoded
class Rendered:
    """How many examples the template renders and refuses, and why it refused the first."""

    def __init__(self, subject: Subject) -> None:
        self.examples = self.refused = 0
        self.fault: str | None = None

    def see(self, one: Encoded) -> None:
        if one.fault is None:
            self.examples += 1
        else:
            self.refused += 1
            self.fault = self.fault or one.fault


def readable(subject: Subject) -> Rendered:
    """What became of the examples; raises Missing where the template renders none."""
    found = subject.counted(Rendered)
    if not found.examples:
        raise Missing(f"the template renders no example: {found.fault}")
    return found


def is_rendered(example: Example) -> bool:
    """Whether the prompt is a string with control tokens in it: trainers take such rows as they stand."""
    return example.plain and CONTROL.search(content_of(example.messages[0])) is not None


def _rendered(example: Example, tokenizer: Any) -> tuple[str | None, str | None]:
    """The text of an example, or why there is none."""
    if example.text is not None:
        return example.text, None
    if is_rendered(example):
        return "".join(content_of(turn) for turn in example.messages), None
    if not tokenizer.chat_template:
        return "\n".join(content_of(turn) for turn in example.messages), None
    try:
        text = tokenizer.apply_chat_template(
            list(example.messages), tools=list(example.tools) if example.tools else None, tokenize=False
        )
    except Exception as error:  # a template is a program of its own
        return None, (str(error).splitlines() or [""])[0] or type(error).__name__
    return str(text), None


def _spans(example: Example, text: str, encoding: Any) -> list[Span]:
    """Where each turn's text stands; a turn the template changed or left out has no span."""
    places: list[Span] = []  # of characters
    position = 0
    for index, turn in enumerate(example.messages):
        # White space around a text may be cut, or read as part of the control token beside it.
        whole = content_of(turn).strip()
        for content in (whole, whole.rpartition("</think>")[2].strip()):  # templates drop thoughts
            if content and (start := _find(content, text, position)) >= 0:
                position = start + len(content)
                places.append(Span(str(turn["role"]), start, position, index))
                break
    for index, turn in enumerate(example.messages):
        if turn["role"] == "assistant":
            places += _beside(turn, index, text, places)
    spans = []
    for place in places:
        first = _token(encoding, place.start, place.end, 1)
        last = _token(encoding, place.end - 1, place.start - 1, -1)
        if first is not None and last is not None:
            spans.append(replace(place, start=first, end=last + 1))
    return spans


def _beside(turn: Turn, index: int, text: str, places: Sequence[Span]) -> list[Span]:
    """Where an answer's thoughts and arguments stand, between the turns around it."""
    found: list[Span] = []
    parts = list(beside(turn))
    if parts:
        first = max((one.end for one in places if one.turn < index), default=0)
        last = min((one.start for one in places if one.turn > index), default=len(text))
    for kind, part in parts:
        part = part.strip()
        # As it is, and as JSON writes it.
        for content in (part, json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1]):
            start = _find(content, text[:last], first)
            if start >= 0:
                first = start + len(content)
                found.append(Span(f"assistant {kind}", start, first, index))
                break
    return found


def _without_end(span: Span, ids: Ids, ends: Collection[int]) -> Span:
    """The span of a rendered answer without the token that ends it, which is the template's."""
    cut = span.end - span.start > 1 and int(ids[span.end - 1]) in ends
    return replace(span, end=span.end - cut)


def _find(content: str, text: str, position: int) -> int:
    """Where a turn's text begins; never inside a word, as a role or a control token may hold a short text."""
    while (start := text.find(content, position)) >= 0:
        end = start + len(content)
        if not (_joined(text[start - 1 : start], content[0]) or _joined(content[-1], text[end : end + 1])):
            return start
        position = start + 1
    return -1


def _joined(one: str, other: str) -> bool:
    """Whether two characters side by side are of one word."""
    return all(part.isalnum() or part == "_" for part in (one, other))


def _token(encoding: Any, start: int, end: int, step: int) -> int | None:
    """The token of the first character from ``start`` on that has one."""
    for place in range(start, end, step):
        if (token := encoding.char_to_token(place)) is not None:
            return int(token)
    return None
