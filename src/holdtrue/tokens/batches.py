"""Batches: trees or whole sequences end to end in one row, or padded to a rectangle, and how they are filled.

All layouts yield one pooled state per answer, in the order of the trees and their leaves, so
nothing downstream can tell them apart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from holdtrue.tokens.attention import TreePlan
from holdtrue.tokens.tree import Tree


@dataclass(frozen=True)
class Targets:
    """What raters said of a batch: of B pairs among its N answers, and of the answers themselves.

    Attributes:
        first, second: (B,) int64, rows of ``RewardOutput.rewards``.
        label: (B,) float32, P(first preferred).
        weight: (B,) float32.
        margin: (B,) float32 in reward units, 0 where none was given.
        shared: (B,) int64, tokens the two answers still have in common after their tree's prompt.
        ratings: (N, K) float32, NaN where none was given.
        accepted: (N,) float32 in [0, 1], NaN where nothing was said.
        length: (N,) int64, tokens of each answer after its tree's prompt.
        marks: (N,) int64, how many tokens of each conversation are marked.
        steps: (M,) float32, what was said of the marked steps, NaN where nothing; else empty.
        tree: (N,) int64, number of the tree, which all answers to learn from together share.
        counted: (N,) float32, 0 for answers that stand in the batch without weight, else 1.
    """

    first: Tensor
    second: Tensor
    label: Tensor
    weight: Tensor
    margin: Tensor
    shared: Tensor
    ratings: Tensor
    accepted: Tensor
    length: Tensor
    marks: Tensor
    steps: Tensor
    tree: Tensor
    counted: Tensor

    def silence(self) -> None:
        """Let nothing in this batch count."""
        self.weight.zero_()
        self.counted.zero_()

    def __add__(self, other: Targets) -> Targets:
        """Both batches as one, the other's answers and trees numbered on."""
        answers, trees = len(self.length), int(self.tree.max()) + 1 if len(self.tree) else 0
        ahead = {"first": answers, "second": answers, "tree": trees}
        columns = {
            column.name: torch.cat(
                [getattr(self, column.name), getattr(other, column.name) + ahead.get(column.name, 0)]
            )
            for column in fields(self)
        }
        return Targets(**columns)


@dataclass(frozen=True)
class TreeBatch:
    """Trees in one row without padding; packed whole sequences are trees of one answer and no prompt.

    Attributes:
        input_ids, position_ids: (1, T) int64; positions restart after the prompt for each answer.
        plan: where trees and answers lie, for the attention functions.
        rows: (N,) int64, the last token of each answer.
        answer_rows: (sum of answer lengths,) int64, every token of every answer.
        mark_rows: (M,) int64, where in the row the marked tokens of all answers stand.
        token_type_ids: (1, T) int64, as in :class:`PaddedBatch`.
    """

    input_ids: Tensor
    position_ids: Tensor
    plan: TreePlan
    rows: Tensor
    answer_rows: Tensor
    targets: Targets
    mark_rows: Tensor
    token_type_ids: Tensor | None = None


@dataclass(frozen=True)
class PaddedBatch:
    """Every sequence in full, right-padded: what models take that cannot read a tree.

    Attributes:
        input_ids, attention_mask, position_ids: (N, L) int64.
        mark_rows: (M,) int64, where in the flattened rectangle the marked tokens of all answers stand.
        token_type_ids: (N, L) int64, 0 for the first text of a pair and 1 for the second, where the model
            is told.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    targets: Targets
    mark_rows: Tensor
    token_type_ids: Tensor | None = None


def lay_out(trees: Sequence[Tree], device: torch.device | str = "cpu") -> TreeBatch:
    """Trees as one packed row."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    rows: list[int] = []
    answer_rows: list[np.ndarray] = []
    mark_rows: list[int] = []
    at = 0
    for tree in trees:
        start = len(tree.prompt)
        ids += [tree.prompt, *tree.answers]
        positions += [np.arange(start), *(np.arange(start, start + len(a)) for a in tree.answers)]
        at += start
        answer_rows.append(np.arange(at, at + tree.tokens - start))
        root = at - start
        for k, answer in enumerate(tree.answers):
            # a mark stands in the part that the answers share, or after it
            for mark in tree.marks[k] if tree.marks else ():
                mark_rows.append(mark + (root if mark < start else at - start))
            at += len(answer)
            rows.append(at - 1)
    position_ids = np.concatenate(positions)
    shape = [(len(tree.prompt), [len(a) for a in tree.answers]) for tree in trees]
    return TreeBatch(
        input_ids=torch.from_numpy(np.concatenate(ids).astype(np.int64))[None].to(device),
        position_ids=torch.from_numpy(position_ids)[None].to(device),
        plan=TreePlan(shape, device),
        rows=torch.tensor(rows, device=device),
        answer_rows=torch.from_numpy(np.concatenate(answer_rows)).to(device),
        targets=targets_of(trees, device),
        mark_rows=torch.tensor(mark_rows, dtype=torch.int64, device=device),
    )


def lay_end_to_end(
    trees: Sequence[Tree],
    device: torch.device | str = "cpu",
    separator: int | None = None,
    first_position: int = 0,
) -> TreeBatch:
    """Every sequence of the trees in full, end to end in one row: for models that read in both directions.

    ``separator`` as in :func:`pad`; positions begin at ``first_position`` in each sequence.
    """
    sequences, lengths = sequences_of(trees), [len(a) for tree in trees for a in tree.answers]
    sizes = np.array([len(ids) for ids in sequences])
    ends = sizes.cumsum()
    answer_rows = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    marked = zip(ends - sizes, marks_of(trees), strict=True)
    mark_rows = [start + mark for start, marks in marked for mark in marks]
    types = [_token_types(ids == separator) for ids in sequences]

    def row(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))[None].to(device)

    return TreeBatch(
        input_ids=row(sequences),
        position_ids=row([np.arange(first_position, first_position + size) for size in sizes]),
        plan=TreePlan([(0, [int(size)]) for size in sizes], device),
        rows=torch.from_numpy(ends - 1).to(device),
        answer_rows=torch.from_numpy(np.concatenate(answer_rows)).to(device),
        targets=targets_of(trees, device),
        mark_rows=torch.tensor(mark_rows, dtype=torch.int64, device=device),
        token_type_ids=None if separator is None else row(types),
    )


def pad(
    trees: Sequence[Tree],
    pad_id: int,
    device: torch.device | str = "cpu",
    side: str = "right",
    separator: int | None = None,
) -> PaddedBatch:
    """Sequences of the trees as a rectangle; positions count real tokens whatever the side.

    ``separator`` is the token after whose first occurrence token types are 1, where there are types.
    """
    sequences = sequences_of(trees)
    width = max(map(len, sequences))
    input_ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(sequences), width), dtype=np.int64)
    for row, ids in enumerate(sequences):
        place = slice(0, len(ids)) if side == "right" else slice(width - len(ids), width)
        input_ids[row, place] = ids
        mask[row, place] = 1
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    first = mask.argmax(1) + width * np.arange(len(mask))
    mark_rows = [first[row] + mark for row, marks in enumerate(marks_of(trees)) for mark in marks]
    types = _token_types(input_ids == separator) * mask
    return PaddedBatch(
        input_ids=torch.from_numpy(input_ids).to(device),
        attention_mask=torch.from_numpy(mask).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        targets=targets_of(trees, device),
        token_type_ids=None if separator is None else torch.from_numpy(types).to(device),
        mark_rows=torch.tensor(mark_rows, dtype=torch.int64, device=device),
    )


def sequences_of(trees: Sequence[Tree]) -> list[np.ndarray]:
    """Every answer with its prompt before it, in the order of the trees and their leaves."""
    return [np.concatenate([tree.prompt, answer]) for tree in trees for answer in tree.answers]


def marks_of(trees: Sequence[Tree]) -> list[tuple[int, ...]]:
    """The marks of every answer, in the same order."""
    return [marks for tree in trees for marks in tree.marks or [()] * len(tree.answers)]


def _token_types(separators: np.ndarray) -> np.ndarray:
    """1 after the first separator of a sequence, else 0."""
    types: np.ndarray = (separators.cumsum(-1) - separators > 0).astype(np.int64)
    return types


def targets_of(trees: Sequence[Tree], device: torch.device | str = "cpu") -> Targets:
    """What raters said of the trees' answers, in the order of the trees and their leaves."""
    counts = [len(tree.answers) for tree in trees]
    offsets = np.cumsum([0, *counts])[:-1]

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(tree, name) for tree in trees])).to(device)

    def numbered(name: str) -> Tensor:
        parts = [getattr(tree, name) + offset for tree, offset in zip(trees, offsets, strict=True)]
        return torch.from_numpy(np.concatenate(parts)).to(device)

    lengths = [len(answer) for tree in trees for answer in tree.answers]
    return Targets(
        first=numbered("first"),
        second=numbered("second"),
        label=column("label"),
        weight=column("weight"),
        margin=column("margin"),
        shared=torch.tensor([n for tree in trees for n in tree.shared], dtype=torch.int64, device=device),
        ratings=column("ratings"),
        accepted=column("accepted"),
        length=torch.tensor(lengths, device=device),
        marks=torch.tensor([len(marks) for marks in marks_of(trees)], device=device),
        steps=column("steps"),
        tree=torch.repeat_interleave(torch.arange(len(trees)), torch.tensor(counts)).to(device),
        counted=torch.ones(len(lengths), device=device),
    )


def fill(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Indices dealt into batches of at most ``budget`` tokens, longest first, each where least room stays.

    An item larger than the budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens free, batch), sorted
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = bisect_left(room, (sizes[index], -1))
        if place == len(room):
            batches.append([])
            free, batch = budget, len(batches) - 1
        else:
            free, batch = room.pop(place)
        batches[batch].append(index)
        if free > sizes[index]:
            insort(room, (free - sizes[index], batch))
    return batches


def fill_rectangles(widths: Sequence[int], rows: Sequence[int], budget: int) -> list[list[int]]:
    """Indices dealt into padded batches of at most ``budget`` positions, so that like lengths lie together.

    Item i takes ``rows[i]`` rows of ``widths[i]`` tokens; a batch costs all its rows times its longest.
    """
    batches: list[list[int]] = []
    width = held = 0
    for index in sorted(range(len(widths)), key=lambda i: (-widths[i], i)):
        if not batches or (held + rows[index]) * width > budget:
            batches.append([])
            width, held = widths[index], 0
        batches[-1].append(index)
        held += rows[index]
    return batches


def share(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Indices dealt to ``parts`` processes with close token counts (largest first, to the least)."""
    shares: list[list[int]] = [[] for _ in range(parts)]
    load = [0] * parts
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        part = load.index(min(load))
        shares[part].append(index)
        load[part] += sizes[index]
    return [sorted(part) for part in shares]
