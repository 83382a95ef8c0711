"""Comparisons to token ids: a prompt and two of its answers in one sequence, for models that compare.

    [ prompt, answer i, answer j ]          and the other order          [ prompt, answer j, answer i ]

A tree of such sequences has one comparison per leaf, between the answer shown first and the one shown
second. Leaves of one prompt share what they begin with, as answers do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from holdtrue.errors import DataError, ModelError, SettingsError
from holdtrue.records import Answer, Comparison, Group, Message, content_hash
from holdtrue.tokens.conversation import Encoded, Encoder, Ids, Truncation, require_fast
from holdtrue.tokens.tree import Drop, Tree, grow

Order = tuple[int, int]
"""The answer shown first and the one shown second."""
Asked = tuple[Group, Sequence[Order]]

MARKERS = ("<|source|>", "<|candidate1|>", "<|candidate2|>")
_CANDIDATE_SHARE = 0.2  # LLM-Blender's 412 of 2048 tokens


class JointEncoder(Protocol):
    """Encodes comparisons: ``encode(asked)`` gives for each group one entry per order asked for."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def max_length(self) -> int: ...
    @property
    def repaired(self) -> Counter[str]: ...

    def encode(self, asked: Sequence[Asked]) -> Iterator[Encoded]: ...


@dataclass(frozen=True)
class WrittenPairs:
    """Comparisons as a text that asks which answer is better.

    Attributes:
        encoder: of texts. It writes the opening of the reply after a chat's question.
        write: the text of a comparison.
        chat: the text is a user turn of a chat; else it is read as it stands.
    """

    encoder: Encoder
    write: Callable[[Group, Order], str]
    chat: bool

    def __post_init__(self) -> None:
        if self.encoder.truncation in ("left", "right"):
            raise SettingsError(
                f"data.truncation {self.encoder.truncation} would cut the question or an answer out of a "
                "comparison; with preference_lm it is drop or error"
            )

    @property
    def tokenizer(self) -> Any:
        return self.encoder.tokenizer

    @property
    def max_length(self) -> int:
        return self.encoder.max_length

    @property
    def repaired(self) -> Counter[str]:
        return self.encoder.repaired

    def encode(self, asked: Sequence[Asked]) -> Iterator[Encoded]:
        """Token ids of every comparison of every group, in order."""
        return self.encoder.encode([self._question(group, orders) for group, orders in asked])

    def _question(self, group: Group, orders: Sequence[Order]) -> Group:
        texts = [self.write(group, order) for order in orders]
        if self.chat:
            return Group((), tuple(Answer((Message("user", t),)) for t in texts), source=group.source)
        return Group("", tuple(Answer(text) for text in texts), source=group.source)


@dataclass
class MarkedPairs:
    """Comparisons as a source and two candidates behind marker tokens (LLM-Blender, arXiv 2306.02561).

        [CLS] <|source|> x [SEP] <|candidate1|> y1 [SEP] <|candidate2|> y2 [SEP]

    Texts are never read as special tokens. Where the whole is longer than ``max_length``, truncation
    ``left`` and ``right`` cut the source to what two candidates of ``candidate_length`` leave, and each
    candidate to that length plus half of what the source does not need.

    Raises:
        ModelError: the tokenizer is not a fast one, or lacks a separator or the markers.
    """

    tokenizer: Any
    max_length: int
    truncation: Truncation = "drop"
    candidate_length: int | None = None
    vocabulary: int | None = None
    repaired: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        tokenizer = self.tokenizer
        require_fast(tokenizer)
        separator = _first(tokenizer.sep_token_id, tokenizer.eos_token_id)
        if separator is None:
            raise ModelError(
                "the tokenizer has neither a separator nor an EOS token, which pair_ranker needs"
            )
        start = _first(tokenizer.cls_token_id, tokenizer.bos_token_id)
        self._start = np.array([] if start is None else [start], dtype=np.int32)
        self._markers = np.array(tokenizer.convert_tokens_to_ids(list(MARKERS)), dtype=np.int32)
        self._separator = np.array([separator], dtype=np.int32)
        self._special = [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]

    def encode(self, asked: Sequence[Asked]) -> Iterator[Encoded]:
        """Token ids of every comparison of every group, in order.

        Raises:
            DataError: one is longer than ``max_length`` and truncation is ``error``.
        """
        for group, orders in asked:
            used = sorted({answer for order in orders for answer in order})
            texts = [group.prompt_text, *(group.answers[k].text for k in used)]
            reason, parts = self._tokenize(texts)
            if reason:
                yield Encoded((None,) * len(orders), (reason,) * len(orders), (0,) * len(orders))
                continue
            by_answer = dict(zip(used, parts[1:], strict=True))
            fitted = [self._fit(parts[0], by_answer[i], by_answer[j], group) for i, j in orders]
            ids, reasons, cuts = zip(*fitted, strict=True) if fitted else ((), (), ())
            yield Encoded(ids, reasons, cuts)

    def _tokenize(self, texts: list[str]) -> tuple[str | None, list[Ids]]:
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            return "lone surrogates in the text", []
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        before, backend.encode_special_tokens = backend.encode_special_tokens, True
        try:
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        finally:
            backend.encode_special_tokens = before
        parts = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        parts = [
            ids[~np.isin(ids, self._special)] for ids in parts
        ]  # some vocabularies hold them as words too
        if self.vocabulary is not None and any(len(p) and p.max() >= self.vocabulary for p in parts):
            return "a token the model has no embedding for", []
        return None, parts

    def _fit(self, source: Ids, first: Ids, second: Ids, group: Group) -> tuple[Ids | None, str | None, int]:
        room = self.max_length - len(self._start) - 2 * len(MARKERS)
        over = len(source) + len(first) + len(second) - room
        if over <= 0:
            return self._join(source, first, second), None, 0
        if self.truncation == "error":
            where = f"{group.source}: " if group.source else ""
            raise DataError(
                f"{where}a comparison is {over} tokens longer than max_length {self.max_length}; "
                "raise data.max_length or choose data.truncation: drop, left or right"
            )
        if self.truncation == "drop":
            return None, "longer than max_length", 0
        candidate = self.candidate_length or max(1, int(_CANDIDATE_SHARE * self.max_length))
        if room < 2 * candidate:
            return None, "no room for two candidates", 0
        kept = self._cut(source, room - 2 * candidate)
        candidate += (room - 2 * candidate - len(kept)) // 2
        sides = self._cut(first, candidate), self._cut(second, candidate)
        if np.array_equal(*sides):
            return None, "identical after truncation", 0
        joined = self._join(kept, *sides)
        return joined, None, over + room + len(self._start) + 2 * len(MARKERS) - len(joined)

    def _cut(self, ids: Ids, most: int) -> Ids:
        return ids[:most] if self.truncation == "right" else ids[max(len(ids) - most, 0) :]

    def _join(self, *parts: Ids) -> Ids:
        pieces = [self._start]
        for marker, ids in zip(self._markers, parts, strict=True):
            pieces += [marker[None], ids, self._separator]
        return np.concatenate(pieces)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def forest(
    groups: Sequence[Group], encoder: JointEncoder, both: bool, most: int, dropped: Drop, cut: Counter[str]
) -> list[list[Tree]]:
    """Trees of all comparisons, prompt by prompt, with at most ``most`` leaves each.

    ``both`` orders of a comparison are leaves of one tree and count as one comparison. Else it is shown in
    one order, which the hashes of its answers decide, so it says nothing about which one was preferred.
    ``dropped`` and ``cut`` are as in :func:`holdtrue.tokens.tree.forest`.
    """
    kept = [(group, list(_usable(group, dropped))) for group in groups]
    asked = [(group, [o for c in cs for o in _orders(group, c, both)]) for group, cs in kept]
    prompts: dict[str, list[list[tuple[Ids, Comparison]]]] = {}
    size = 2 if both else 1
    for (group, comparisons), (_, orders), encoded in zip(kept, asked, encoder.encode(asked), strict=True):
        for index, comparison in enumerate(comparisons):
            part = slice(index * size, (index + 1) * size)
            reason = next((reason for reason in encoded.reasons[part] if reason), None)
            if reason:
                dropped(group, reason)
                continue
            if any(encoded.cut[part]):
                cut["comparisons truncated"] += 1
            trees = prompts.setdefault(group.prompt_key, [])
            if not trees or len(trees[-1]) + size > most:
                trees.append([])
            for ids, order in zip(encoded.ids[part], orders[part], strict=True):
                assert ids is not None
                swapped = order != (comparison.first, comparison.second)
                label = 1 - comparison.label if swapped else comparison.label
                trees[-1].append((ids, replace(comparison, label=label)))
    return [[_plant(leaves, size) for leaves in trees] for trees in prompts.values()]


def _usable(group: Group, dropped: Drop) -> Iterator[Comparison]:
    if not group.comparisons:
        dropped(group, "no comparison")
    for comparison in group.comparisons:
        if group.answers[comparison.first].content == group.answers[comparison.second].content:
            dropped(group, "identical sides")
        else:
            yield comparison


def _orders(group: Group, comparison: Comparison, both: bool) -> list[Order]:
    i, j = comparison.first, comparison.second
    if both:
        return [(i, j), (j, i)]
    smaller = content_hash(group.answers[i].content) < content_hash(group.answers[j].content)
    return [(i, j) if smaller else (j, i)]


def _plant(leaves: Sequence[tuple[Ids, Comparison]], orders: int) -> Tree:
    comparisons = [replace(comparison, first=k, second=k) for k, (_, comparison) in enumerate(leaves)]
    return replace(grow([ids for ids, _ in leaves], comparisons), orders=orders)


def plant(sequences: Sequence[Ids]) -> Tree:
    """A tree of joint sequences to be judged, one comparison per leaf."""
    return _plant([(ids, Comparison(0, 1)) for ids in sequences], 1)
