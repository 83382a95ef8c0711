"""Batches: trees laid end to end in one row, or sequences padded to a rectangle, and how they are filled.

Both layouts yield one pooled state per answer, in the order of the trees and their leaves, so
nothing downstream can tell them apart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdtrue.tokens.attention import TreePlan
from holdtrue.tokens.tree import Tree


@dataclass(frozen=True)
class Comparisons:
    """The comparisons of a batch: indices into its N answers and what was said of each pair.

    Attributes:
        first, second: (B,) int64, rows of ``RewardOutput.rewards``.
        label: (B,) float32, P(first preferred).
        weight: (B,) float32.
        margin: (B,) float32 in reward units, 0 where none was given.
    """

    first: Tensor
    second: Tensor
    label: Tensor
    weight: Tensor
    margin: Tensor


@dataclass(frozen=True)
class TreeBatch:
    """Trees in one row without padding.

    Attributes:
        input_ids, position_ids: (1, T) int64; positions restart after the prompt for each answer.
        plan: where trees and answers lie, for the attention functions.
        rows: (N,) int64, the last token of each answer.
    """

    input_ids: Tensor
    position_ids: Tensor
    plan: TreePlan
    rows: Tensor
    comparisons: Comparisons


@dataclass(frozen=True)
class PaddedBatch:
    """Every sequence in full, right-padded: what models take that cannot read a tree.

    Attributes:
        input_ids, attention_mask, position_ids: (N, L) int64.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    comparisons: Comparisons


def lay_out(trees: Sequence[Tree], device: torch.device | str = "cpu") -> TreeBatch:
    """Trees as one packed row."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    rows: list[int] = []
    at = 0
    for tree in trees:
        start = len(tree.prompt)
        ids += [tree.prompt, *tree.answers]
        positions += [np.arange(start), *(np.arange(start, start + len(a)) for a in tree.answers)]
        at += start
        for answer in tree.answers:
            at += len(answer)
            rows.append(at - 1)
    position_ids = np.concatenate(positions)
    shape = [(len(tree.prompt), [len(a) for a in tree.answers]) for tree in trees]
    return TreeBatch(
        input_ids=torch.from_numpy(np.concatenate(ids).astype(np.int64))[None].to(device),
        position_ids=torch.from_numpy(position_ids)[None].to(device),
        plan=TreePlan(shape, device),
        rows=torch.tensor(rows, device=device),
        comparisons=_comparisons(trees, device),
    )


def pad(
    trees: Sequence[Tree], pad_id: int, device: torch.device | str = "cpu", side: str = "right"
) -> PaddedBatch:
    """Sequences of the trees as a rectangle; positions count real tokens whatever the side."""
    sequences = [np.concatenate([tree.prompt, answer]) for tree in trees for answer in tree.answers]
    width = max(map(len, sequences))
    input_ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(sequences), width), dtype=np.int64)
    for row, ids in enumerate(sequences):
        place = slice(0, len(ids)) if side == "right" else slice(width - len(ids), width)
        input_ids[row, place] = ids
        mask[row, place] = 1
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    return PaddedBatch(
        input_ids=torch.from_numpy(input_ids).to(device),
        attention_mask=torch.from_numpy(mask).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        comparisons=_comparisons(trees, device),
    )


def _comparisons(trees: Sequence[Tree], device: torch.device | str) -> Comparisons:
    offsets = np.cumsum([0] + [len(tree.answers) for tree in trees])[:-1]
    first = np.concatenate([tree.first + o for tree, o in zip(trees, offsets, strict=True)])
    second = np.concatenate([tree.second + o for tree, o in zip(trees, offsets, strict=True)])
    return Comparisons(
        first=torch.from_numpy(first).to(device),
        second=torch.from_numpy(second).to(device),
        label=torch.from_numpy(np.concatenate([tree.label for tree in trees])).to(device),
        weight=torch.from_numpy(np.concatenate([tree.weight for tree in trees])).to(device),
        margin=torch.from_numpy(np.concatenate([tree.margin for tree in trees])).to(device),
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
