"""Slices and length correlations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdtrue.errors import SettingsError
from holdtrue.evaluation.pairs import Pairs
from holdtrue.evaluation.slices import by_column, by_length_gap, length_correlation, pearson, ranks
from holdtrue.records import Answer, Group


def make_pairs(gap: list[float], length_gap: list[float] | None = None) -> Pairs:
    rows = np.arange(len(gap))
    lengths = np.zeros(len(gap)) if length_gap is None else np.array(length_gap)
    return Pairs(np.array(gap), np.ones(len(gap)), lengths, rows, rows, rows, rows, unscored=0)


def make_groups(metas: list[dict[str, object]]) -> list[Group]:
    return [Group("p", (Answer("a"), Answer("b")), meta=meta) for meta in metas]


def test_each_value_of_a_column_gets_its_own_accuracy_most_frequent_first() -> None:
    groups = make_groups([{"topic": "tea"}, {"topic": "coffee"}, {"topic": "coffee"}, {"topic": "coffee"}])
    table = by_column(make_pairs([1, 1, -1, 0]), groups, [], 0.95)["topic"]
    assert [(row["value"], row["count"], row["accuracy"]) for row in table] == [
        ("coffee", 3, 0.5),
        ("tea", 1, 1.0),
    ]
    assert all(row["interval"][0] <= row["accuracy"] <= row["interval"][1] for row in table)


def test_columns_that_are_constant_or_differ_in_every_row_or_hold_lists_are_not_slices() -> None:
    metas: list[dict[str, object]] = [{"one": 1, "id": n, "tags": [n % 2], "many": n // 2} for n in range(50)]
    assert by_column(make_pairs([1.0] * 50), make_groups(metas), [], 0.95) == {}


def test_a_named_column_is_sliced_whatever_it_holds() -> None:
    metas: list[dict[str, object]] = [{"tags": [n % 2], "id": n} for n in range(4)]
    tables = by_column(make_pairs([1.0] * 4), make_groups(metas), ["tags", "id"], 0.95)
    assert [row["value"] for row in tables["tags"]] == ["[0]", "[1]"]
    assert len(tables["id"]) == 4


def test_rows_without_the_column_are_a_slice_of_their_own() -> None:
    groups = make_groups([{"topic": "tea"}, {"topic": None}, {}, {"topic": "tea"}])
    table = by_column(make_pairs([1.0] * 4), groups, [], 0.95)["topic"]
    assert [(row["value"], row["count"]) for row in table] == [("(missing)", 2), ("tea", 2)]


def test_a_wrong_column_is_answered_with_the_nearest_right_one() -> None:
    with pytest.raises(SettingsError, match="unknown slice 'topik'; did you mean 'topic'"):
        by_column(make_pairs([1.0]), make_groups([{"topic": "tea"}]), ["topik"], 0.95)
    with pytest.raises(SettingsError, match="its rows have no other columns"):
        by_column(make_pairs([1.0]), make_groups([{}]), ["topic"], 0.95)


def test_length_gaps_fall_into_terciles_on_both_sides_of_equal() -> None:
    table = by_length_gap(make_pairs([1, 1, 1, 1, -1, -1, 0], [10, 20, 30, -10, -20, -30, 0]), 0.95)
    # Distances 10, 10, 20, 20, 30, 30: terciles 16.7 and 23.3, rounded up.
    found = [(row["low"], row["high"], row["count"], row["accuracy"]) for row in table]
    assert found == [
        (None, -24.0, 1, 0.0),
        (-24.0, -17.0, 1, 0.0),
        (-17.0, 0.0, 1, 1.0),
        (0.0, 0.0, 1, 0.5),
        (0.0, 17.0, 1, 1.0),
        (17.0, 24.0, 1, 1.0),
        (24.0, None, 1, 1.0),
    ]


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.integers(-40, 40).map(float)))
def test_every_comparison_falls_into_the_bucket_whose_bounds_hold_it(length_gap: np.ndarray) -> None:
    table = by_length_gap(make_pairs([1.0] * len(length_gap), length_gap.tolist()), 0.95)
    for row in table:
        low = -np.inf if row["low"] is None else row["low"]
        high = np.inf if row["high"] is None else row["high"]
        if low == high:
            inside = length_gap == 0
        elif low >= 0:
            inside = (length_gap > low) & (length_gap <= high)
        else:
            inside = (length_gap >= low) & (length_gap < high)
        assert inside.sum() == row["count"]
    assert sum(row["count"] for row in table) == len(length_gap)


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_correlations_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 30, size=200)
    y = x * 0.1 + rng.normal(size=200)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert pearson(ranks(x), ranks(y)) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_correlation_within_pairs_does_not_depend_on_which_answer_stands_first() -> None:
    pairs = make_pairs([1.0, -2.0, 0.5], [10.0, -30.0, -5.0])
    turned = make_pairs([1.0, 2.0, 0.5], [10.0, 30.0, -5.0])
    lengths, rewards = np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0])
    found = length_correlation(lengths, rewards, pairs)
    assert found == pytest.approx(length_correlation(lengths, rewards, turned))
    # Through the origin: Σ xy / √(Σx² Σy²) = (10 + 60 - 2.5) / √(1025 · 5.25)
    assert found["within_pairs_pearson"] == pytest.approx(67.5 / (1025 * 5.25) ** 0.5)
    assert found["pearson"] == pytest.approx(1)


def test_rewards_that_do_not_vary_have_no_correlation() -> None:
    assert pearson(np.array([1, 2, 3]), np.ones(3)) is None
    assert pearson(np.array([1]), np.ones(1)) is None


def test_tiny_and_huge_rewards_correlate_like_others() -> None:
    x, y = np.array([1, 2, 4]), np.array([1.0, 2.0, 3.0])
    assert pearson(x, y * 1e-38) == pytest.approx(pearson(x, y))
    assert pearson(x, y * 1e38) == pytest.approx(pearson(x, y))
