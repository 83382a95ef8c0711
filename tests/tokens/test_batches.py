from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.records import Comparison
from holdtrue.tokens.batches import fill, lay_out, pad, share
from holdtrue.tokens.tree import Tree, grow

sizes = st.lists(st.integers(1, 60), max_size=40)
sequence = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    sequences = draw(st.lists(sequence, min_size=1, max_size=4))
    count = len(sequences)
    pairs = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=3))
    said = [Comparison(a, b, 0.25 * (k + 1), 2.0 + k, 0.5 * k) for k, (a, b) in enumerate(pairs)]
    return grow([np.array(s, np.int32) for s in sequences], said)


@given(sizes, st.integers(1, 80))
def test_batches_hold_every_item_once_and_stay_within_the_budget(items: list[int], budget: int) -> None:
    batches = fill(items, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(items)))
    for batch in batches:
        assert sum(items[i] for i in batch) <= budget or len(batch) == 1
        assert batch


@given(sizes, st.integers(1, 80))
def test_no_two_batches_could_have_been_one(items: list[int], budget: int) -> None:
    loads = sorted(sum(items[i] for i in batch) for batch in fill(items, budget))
    assert len(loads) < 2 or loads[0] + loads[1] > budget


@given(sizes, st.integers(1, 5))
def test_shares_are_complete_and_differ_by_no_more_than_the_largest_item(
    items: list[int], parts: int
) -> None:
    shares = share(items, parts)
    assert len(shares) == parts
    assert sorted(i for part in shares for i in part) == list(range(len(items)))
    assert all(part == sorted(part) for part in shares)
    loads = [sum(items[i] for i in part) for part in shares]
    assert max(loads) - min(loads) <= max(items, default=0)


def test_batches_and_shares_do_not_depend_on_anything_but_the_sizes() -> None:
    items = [3, 9, 3, 9, 1]
    assert fill(items, 12) == [[1, 0], [3, 2], [4]]
    assert share(items, 2) == [[0, 1, 4], [2, 3]]


@given(st.lists(trees(), min_size=1, max_size=5))
def test_a_packed_row_spells_every_sequence_at_the_positions_it_would_have_alone(forest: list[Tree]) -> None:
    batch = lay_out(forest)
    ids, positions = batch.input_ids[0].tolist(), batch.position_ids[0].tolist()
    assert len(ids) == len(positions) == sum(tree.tokens for tree in forest) == sum(batch.plan.sizes)
    at, rows = 0, iter(batch.rows.tolist())
    for tree in forest:
        size = len(tree.prompt)
        assert ids[at : at + size] == tree.prompt.tolist()
        assert positions[at : at + size] == list(range(size))
        at += size
        for answer in tree.answers:
            assert ids[at : at + len(answer)] == answer.tolist()
            assert positions[at : at + len(answer)] == list(range(size, size + len(answer)))
            at += len(answer)
            assert next(rows) == at - 1
    assert next(rows, None) is None


@given(st.lists(trees(), min_size=1, max_size=5), st.sampled_from(["right", "left"]))
def test_a_padded_row_holds_its_sequence_whatever_the_side(forest: list[Tree], side: str) -> None:
    batch = pad(forest, 0, side=side)
    sequences = [np.concatenate([tree.prompt, a]).tolist() for tree in forest for a in tree.answers]
    assert len(batch.input_ids) == len(sequences)
    for ids, mask, positions, expected in zip(
        batch.input_ids, batch.attention_mask.bool(), batch.position_ids, sequences, strict=True
    ):
        assert ids[mask].tolist() == expected
        assert positions[mask].tolist() == list(range(len(expected)))
        assert (ids[~mask] == 0).all()
        assert mask[0 if side == "right" else -1]  # real tokens lie at one end
        assert mask.int().diff().abs().sum() <= 1


@given(st.lists(trees(), min_size=1, max_size=5))
def test_both_layouts_number_the_answers_and_comparisons_alike(forest: list[Tree]) -> None:
    packed, padded = lay_out(forest).targets, pad(forest, 0).targets
    for field in ("first", "second", "label", "weight", "margin"):
        assert torch.equal(getattr(packed, field), getattr(padded, field))
    starts = np.cumsum([0, *(len(tree.answers) for tree in forest)])[:-1]
    first = [int(s + i) for tree, s in zip(forest, starts, strict=True) for i in tree.first]
    assert packed.first.tolist() == first
    assert packed.weight.tolist() == [w for tree in forest for w in tree.weight.tolist()]
