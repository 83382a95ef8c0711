"""Grams, their copies, and the densest stretch, against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.health.repetition import (
    codes,
    copied,
    copies_before,
    densest,
    hashes,
    is_among,
    repeats,
    without_digits,
    without_rules,
)

symbols = st.lists(st.integers(0, 3), max_size=120)


@given(symbols, st.integers(1, 21))
def test_equal_grams_and_only_they_have_equal_hashes(values, width):
    grams = [tuple(values[i : i + width]) for i in range(len(values) - width + 1)]
    found = hashes(np.array(values, dtype=np.uint32), width).tolist()
    assert len(found) == len(grams)
    assert len(set(zip(grams, found, strict=True))) == len(set(grams)) == len(set(found))


@given(symbols, st.integers(1, 9))
def test_copies_before_counts_the_equal_grams_before_a_place(values, width):
    grams = [tuple(values[i : i + width]) for i in range(len(values) - width + 1)]
    expected = [grams[:i].count(gram) for i, gram in enumerate(grams)]
    assert copies_before(hashes(np.array(values, dtype=np.uint32), width)).tolist() == expected


@given(symbols, st.integers(1, 9), st.integers(1, 4))
def test_copies_are_counted_where_there_are_as_many(values, width, times):
    grams = hashes(np.array(values, dtype=np.uint32), width)
    before = copies_before(grams).tolist()
    assert copied(grams, times).tolist() == [count if count >= times else 0 for count in before]


def test_grams_of_one_bin_that_differ_are_no_copies():
    # the highest bits choose the bin; these five differ in the lower ones, which are kept to be sorted
    grams = np.array([5 << 40, 6 << 40, 5 << 40, 7 << 40, 5 << 40], dtype=np.uint64)
    assert copied(grams, 1).tolist() == [0, 0, 1, 0, 2]
    assert copied(grams, 2).tolist() == [0, 0, 0, 0, 2]


@given(st.lists(st.integers(0, 9), max_size=20), st.lists(st.integers(0, 9), max_size=9))
def test_grams_are_looked_up_among_others(values, members):
    found = is_among(np.array(values, dtype=np.uint64), np.array(sorted(members), dtype=np.uint64))
    assert found.tolist() == [value in members for value in values]


@given(symbols, st.integers(1, 9))
def test_no_gram_that_repeats_is_left_out_of_the_count(values, width):
    grams = hashes(np.array(values, dtype=np.uint32), width)
    assert repeats(grams) >= np.count_nonzero(copies_before(grams))


def test_a_text_that_says_nothing_twice_is_told_without_sorting():
    values = np.random.default_rng(0).integers(0, 1 << 20, 3000)
    assert repeats(hashes(values, 20)) < 0.05 * 3000


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 30))
def test_the_densest_window_is_the_first_with_the_most_marks(marks, window):
    found = densest(np.array(marks, dtype=bool), window)
    if len(marks) < window:
        assert found is None
        return
    counts = [sum(marks[i : i + window]) for i in range(len(marks) - window + 1)]
    assert found is not None
    assert found.repeated == pytest.approx(max(counts) / window)
    assert (found.start, found.end) == (counts.index(max(counts)), counts.index(max(counts)) + window)


def test_digits_are_one_symbol_and_other_characters_stay():
    assert np.array_equal(without_digits(codes("Step 12: é9")), codes("Step 00: é0"))


@given(st.text("ab-", max_size=40), st.integers(1, 5))
def test_a_run_of_one_symbol_is_cut_after_its_first_few(text, longest):
    kept, run = [], 0
    for i, character in enumerate(text):
        run = run + 1 if i and text[i - 1] == character else 1
        if run <= longest:
            kept.append(i)
    assert without_rules(codes(text), longest).tolist() == kept
