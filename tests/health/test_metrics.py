import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.health.metrics import (
    confident_run,
    distinct,
    entropy_summary,
    is_in,
    logprob_gap,
    ngrams,
    seq_rep,
    tail_zlib,
)

ids = st.lists(st.integers(0, 200_000), max_size=40).map(lambda x: np.array(x, dtype=np.int64))


@given(st.lists(st.sampled_from([0, 1, 7, 150_000]), max_size=40), st.integers(1, 6))
def test_codes_of_ngrams_are_equal_where_the_ngrams_are(row, n):
    words = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
    codes = ngrams(np.array(row, dtype=np.int64), n).tolist()
    assert len(codes) == len(words)
    assert len(set(zip(codes, words, strict=True))) == len(set(codes)) == len(set(words))


def test_codes_stay_exact_when_there_are_many_words():
    # 3000 distinct tokens and n = 8: 3000^8 is far beyond 64 bits.
    row = np.concatenate([np.arange(3000), np.arange(8), np.arange(3000, 0, -1)])
    assert len(np.unique(ngrams(row, 8))) == len({tuple(row[i : i + 8]) for i in range(len(row) - 7)})


def test_repetition_is_the_share_of_ngrams_seen_before():
    # a b a b a b: bigrams ab ba ab ba ab, 2 of 5 distinct
    assert seq_rep(np.array([1, 2, 1, 2, 1, 2]), 2) == pytest.approx(1 - 2 / 5)
    assert seq_rep(np.array([1, 2]), 4) == 0


def test_distinct_counts_ngrams_within_rows_not_across_them():
    # bigrams 12 23 | 12 23 | 34: 3 distinct of 5; 31 and 33 would reach across rows.
    rows = [np.array([1, 2, 3]), np.array([1, 2, 3]), np.array([3, 4]), np.array([], dtype=np.int64)]
    assert distinct(rows, 2) == pytest.approx(3 / 5)
    assert math.isnan(distinct([np.array([1])], 2))


def test_a_looping_tail_compresses_and_a_varied_one_does_not():
    rng = np.random.default_rng(0)
    assert tail_zlib(rng.permutation(256)) < 1.05
    assert tail_zlib(np.concatenate([rng.permutation(500), np.tile([5, 6], 128)])) > 15
    assert math.isnan(tail_zlib(np.arange(15)))


@given(ids, st.sets(st.integers(0, 50)))
def test_membership(row, members):
    assert is_in(row, np.array(sorted(members), dtype=np.int64)).tolist() == [
        t in members for t in row.tolist()
    ]


def test_the_gap_of_two_tokens_by_hand():
    # d = (0.1, -0.3); w = e^d
    gap = logprob_gap(np.array([-1.0, -1.0, np.nan]), np.array([-0.9, -1.3, -2.0]))
    w = math.exp(0.1), math.exp(-0.3)
    assert gap.mean == pytest.approx(0.2)
    assert gap.largest == pytest.approx(0.3)
    assert gap.k3 == pytest.approx(((w[0] - 1 - 0.1) + (w[1] - 1 + 0.3)) / 2)
    assert gap.effective == pytest.approx(sum(w) ** 2 / (2 * (w[0] ** 2 + w[1] ** 2)))
    assert math.isnan(logprob_gap(np.array([np.nan]), np.array([1.0])).mean)


def test_the_longest_run_of_certain_tokens():
    sure, unsure = math.log(0.995), math.log(0.98)
    assert confident_run(np.array([sure, unsure, sure, sure, sure, unsure])) == 3
    assert confident_run(np.array([unsure])) == confident_run(np.array([])) == 0


def test_entropy_of_ten_tokens():
    summary = entropy_summary(np.array([0.0, *range(1, 10), np.nan], dtype=float))
    assert (summary.mean, summary.p10, summary.certain) == (4.5, 1.0, 0.1)
    assert math.isnan(entropy_summary(np.array([])).mean)
