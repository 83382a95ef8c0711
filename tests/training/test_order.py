"""Which trees make up which step."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.settings import TrainingSettings
from holdtrue.training.order import steps

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=40)


def made(
    counts: list[int], world: int = 1, seed: int = 0, **values: object
) -> list[tuple[tuple[int, ...], float]]:
    return [(step.trees, step.epoch) for step in steps(counts, TrainingSettings(**values), world, seed)]


@given(COUNTS, st.integers(1, 12), st.integers(1, 4), st.integers(0, 5))
def test_every_tree_comes_exactly_once_in_every_epoch(
    counts: list[int], batch: int, epochs: int, seed: int
) -> None:
    plan = made(counts, seed=seed, train_batch_size=batch, num_train_epochs=epochs)
    assert plan[-1][1] == pytest.approx(epochs)
    for epoch in range(epochs):
        inside = [tree for trees, end in plan if epoch < end - 1e-9 <= epoch + 1 for tree in trees]
        assert Counter(inside) == Counter(range(len(counts)))


@given(COUNTS, st.integers(1, 12))
def test_a_step_takes_trees_until_it_holds_enough_comparisons_and_not_one_more(
    counts: list[int], batch: int
) -> None:
    plan = made(counts, train_batch_size=batch, num_train_epochs=1)
    for trees, epoch in plan:
        assert trees
        held = sum(counts[tree] for tree in trees)
        assert held >= batch or epoch == 1.0
        assert held - counts[trees[-1]] < batch


def test_three_trees_of_two_comparisons_make_steps_of_four_and_two() -> None:
    plan = made([2, 2, 2], train_batch_size=4, num_train_epochs=2)
    assert [len(trees) for trees, _ in plan] == [2, 1, 2, 1]
    assert [epoch for _, epoch in plan] == pytest.approx([2 / 3, 1, 5 / 3, 2])


def test_sixteen_comparisons_are_a_step_when_nothing_is_said() -> None:
    assert [len(trees) for trees, _ in made([1] * 40, num_train_epochs=1)] == [16, 16, 8]


@pytest.mark.parametrize(
    ("epochs", "count", "end"), [(0.5, 2, 0.5), (0.3, 2, 0.5), (1.0, 4, 1.0), (1.6, 7, 1.75)]
)
def test_a_fraction_of_an_epoch_ends_with_the_first_step_that_reaches_it(
    epochs: float, count: int, end: float
) -> None:
    plan = made([1] * 8, train_batch_size=2, num_train_epochs=epochs)
    assert (len(plan), plan[-1][1]) == (count, end)


@pytest.mark.parametrize("limit", [1, 3, 9])
def test_max_steps_overrides_the_epochs_in_both_directions(limit: int) -> None:
    whole = made([1] * 8, train_batch_size=2, num_train_epochs=3)
    plan = made([1] * 8, train_batch_size=2, num_train_epochs=0.1, max_steps=limit)
    assert plan == whole[:limit]


def test_the_order_is_that_of_the_seed_and_another_in_every_epoch() -> None:
    values = {"train_batch_size": 4, "num_train_epochs": 2}
    plan = made([1] * 32, seed=7, **values)
    assert plan == made([1] * 32, seed=7, **values)
    assert plan != made([1] * 32, seed=8, **values)
    half = len(plan) // 2
    assert [trees for trees, _ in plan[:half]] != [trees for trees, _ in plan[half:]]


def test_more_processes_change_nothing_where_the_batch_is_that_of_all_of_them() -> None:
    assert made([1, 2, 3] * 9, 1, train_batch_size=6) == made([1, 2, 3] * 9, 4, train_batch_size=6)


def test_a_batch_per_device_is_multiplied_by_accumulation_and_processes() -> None:
    values = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    assert made([1] * 48, 4, **values) == made([1] * 48, 1, train_batch_size=24)
    assert made([1] * 48, 1, **values) == made([1] * 48, 1, train_batch_size=6)
