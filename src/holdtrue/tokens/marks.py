"""Tokens read besides a conversation's last: the end of its prompt, or of each step of its answer."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from holdtrue import steps
from holdtrue.records import Group

if TYPE_CHECKING:
    from holdtrue.tokens.conversation import Encoded, Encoder

Ids = NDArray[np.int32]
_ANSWERS_BEGIN = ("", "a", " ", "\n", "1", ".")


@dataclass(frozen=True, slots=True)
class Piece:
    """A token's ``place`` in a conversation's ids, and the characters of the answer it brings."""

    place: int
    start: int
    end: int


def with_steps(encoder: Encoder, group: Group, encoded: Encoded) -> Encoded:
    """Marks at the answers' steps; an answer that is not found in what the model reads is refused."""
    ids, reasons = list(encoded.ids), list(encoded.reasons)
    found: list[list[tuple[int, int, float]]] = [[] for _ in ids]
    for k, own in enumerate(encoded.ids):
        if own is None:
            continue
        ends, values = steps.of(group.answers[k], encoder.separator)
        places = _tokens_at(encoder, group, k, ends)
        if places is None:
            ids[k], reasons[k] = None, "the steps are not found in what the chat template writes"
            continue
        kept = _after_cut(encoder, own, places, encoded.cut[k])
        found[k] = [one for one in zip(kept, ends, values, strict=True) if one[0] >= 0]
        found[k] = found[k] or [(len(own) - 1, len(group.answers[k].text), math.nan)]
    return replace(
        encoded,
        ids=tuple(ids),
        reasons=tuple(reasons),
        marks=tuple(tuple(at for at, _, _ in own) for own in found),
        ends=tuple(tuple(end for _, end, _ in own) for own in found),
        steps=tuple(tuple(value for _, _, value in own) for own in found),
    )


def pieces(encoder: Encoder, group: Group, answer: int, ids: Ids, cut: int) -> list[Piece]:
    """The tokens of ``ids`` that hold an answer's characters, from its first visible one to its last.

    Tokens that share a character, as the bytes of one do, are one piece, which ends with the last of them.
    Empty where the answer is not found in what the model reads.
    """
    found = _located(encoder, group, answer)
    if found is None:
        return []
    reach, start, added = found
    said = group.answers[answer].text
    at, last = len(said) - len(said.lstrip()), len(said.rstrip())
    table: list[Piece] = []
    for place, end in enumerate(end - start for end in reach):
        if table and end == table[-1].end:
            table[-1] = replace(table[-1], place=place + added)
        elif end > at and at < last:
            table.append(Piece(place + added, at, at := min(end, last)))
    places = _after_cut(encoder, ids, [piece.place for piece in table], cut)
    return [replace(piece, place=place) for piece, place in zip(table, places, strict=True) if place >= 0]


def _tokens_at(encoder: Encoder, group: Group, answer: int, ends: Sequence[int]) -> list[int] | None:
    """The token that holds the last character of each part of an answer, before any cut."""
    found = _located(encoder, group, answer)
    if found is None:
        return None
    reach, start, added = found
    places = [min(bisect_left(reach, start + end), len(reach) - 1) for end in ends]
    return [bisect_right(reach, reach[at]) - 1 + added for at in places]  # the last byte of a character


def _located(encoder: Encoder, group: Group, answer: int) -> tuple[list[int], int, int] | None:
    """Where each token ends in the rendered text, where the answer begins, and how many ids come before."""
    conversation = group.conversation(answer)
    text, raw = encoder.render(conversation), isinstance(conversation, str)
    said = group.answers[answer].text
    begin = min(encoder.boundary(group.prompt, text), max(len(text) - len(said), 0))
    start = text.find(said.strip(), begin)
    if start < 0 or (text[begin:start].strip() and text.find(said.strip(), start + 1) >= 0):
        return None  # not there, or which of several it is cannot be told
    start -= len(said) - len(said.lstrip())
    encoding = encoder.backend.encode(text, add_special_tokens=False)
    added = len(encoder.bos) if raw else 0
    ids = np.concatenate([encoder.bos[:added], np.asarray(encoding.ids, np.int32)])
    added -= encoder.doubled_bos(ids)
    return [end for _, end in encoding.offsets], start, added


def _after_cut(encoder: Encoder, ids: Ids, places: list[int], cut: int) -> list[int]:
    """Places in a conversation that truncation shortened; -1 where they were cut away."""
    if not cut:
        return places
    if encoder.truncation == "right":
        return [at if at < len(ids) else -1 for at in places]
    keep = 1 if ids[0] == encoder.bos_id else 0
    return [at - cut if at >= cut + keep else -1 for at in places]


def openings(encoder: Encoder, groups: Sequence[Group]) -> list[Ids | None]:
    """The ids that every conversation of each group's prompt begins with.

    Those of the rendered prompt with the opening of an assistant turn, less the tokens that merge with
    the beginning of some answers, so that they do not depend on the answer. ``None`` for prompts that the
    chat template does not write alone.
    """
    texts = [encoder.opening(group.prompt) for group in groups]
    pieces = [text + begin for text in texts for begin in _ANSWERS_BEGIN]
    encodings = encoder.backend.encode_batch_fast(pieces, add_special_tokens=False)
    ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
    found: list[Ids | None] = []
    for i, group in enumerate(groups):
        if group.prompt and not texts[i]:
            found.append(None)
            continue
        first, *others = ids[i * len(_ANSWERS_BEGIN) : (i + 1) * len(_ANSWERS_BEGIN)]
        for other in others:
            first = first[: _same(first, other)]
        if isinstance(group.prompt, str):
            first = np.concatenate([encoder.bos, first])
        found.append(first[encoder.doubled_bos(first) :])
    return found


def with_prompt(encoder: Encoder, opening: Ids | None, encoded: Encoded) -> Encoded:
    """Marks at the last token of the prompt that answers begin after; without an opening all are refused."""
    if opening is None:
        reasons = tuple(reason or "the chat template refuses the prompt alone" for reason in encoded.reasons)
        none = (None,) * len(reasons)
        return replace(encoded, ids=none, reasons=reasons, marks=((),) * len(reasons))
    pairs = zip(encoded.ids, encoded.cut, strict=True)
    return replace(encoded, marks=tuple((_shared(encoder, opening, own, cut) - 1,) for own, cut in pairs))


def _shared(encoder: Encoder, opening: Ids, ids: Ids | None, cut: int) -> int:
    """Tokens a conversation has in common with its prompt's opening; at least the first one."""
    if ids is None:
        return 0
    if cut and encoder.truncation == "left":
        opening = encoder.without_beginning(opening, cut)
    return max(_same(opening, ids), 1)


def _same(one: Ids, other: Ids) -> int:
    """Ids two sequences begin with in common."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length
