import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import DataError, SettingsError
from holdtrue.health.stream import NEAR, LoopDetector, RepetitionDetection


def first_loop(row, rule):
    """By the definition: (tokens seen, period, onset) when the row's end first repeats itself enough."""
    for n in range(1, len(row) + 1):
        for p in range(rule.min_pattern_size, rule.max_pattern_size + 1):
            need = max(p * rule.min_count, rule.min_cover, p + 1)
            if n >= need and all(row[n - 1 - i] == row[n - 1 - i - p] for i in range(need - p)):
                return n, p, n - need
    return -1, 0, -1


def vllm_stops(row, max_pattern_size, min_pattern_size, min_count):
    """vLLM's rule on the row's end: the last ``min_count`` blocks of p tokens are equal."""
    return any(
        p * min_count <= len(row)
        and len({tuple(row[len(row) - (k + 1) * p :][:p]) for k in range(min_count)}) == 1
        for p in range(min_pattern_size, max_pattern_size + 1)
    )


rows = st.lists(
    st.lists(st.integers(0, 1), max_size=40)
    | st.builds(
        lambda head, word, times: (head + word * times)[:60],
        st.lists(st.integers(0, 3), max_size=12),
        st.lists(st.integers(0, 3), min_size=1, max_size=7),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=5,
)
rules = st.builds(
    lambda low, more, count, cover: RepetitionDetection(low + more, low, count, cover),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(2, 5),
    st.integers(0, 16),
)


@given(rows, rules)
@settings(max_examples=300, deadline=None)
def test_a_loop_is_found_with_the_token_that_completes_it(sequences, rule):
    seen = LoopDetector.over(sequences, rule)
    for i, row in enumerate(sequences):
        n, period, onset = first_loop(row, rule)
        assert (seen.seen_at[i], seen.period[i], seen.onset[i]) == (n, period, onset)
        assert seen.looping[i] == (n > 0)
        assert seen.lengths[i] == len(row)


@given(rows, rules)
@settings(max_examples=200, deadline=None)
def test_without_a_cover_the_rule_is_that_of_vllm(sequences, rule):
    rule = RepetitionDetection(rule.max_pattern_size, rule.min_pattern_size, rule.min_count, 0)
    seen = LoopDetector.over(sequences, rule)
    for i, row in enumerate(sequences):
        stops = [n for n in range(1, len(row) + 1) if vllm_stops(row[:n], **rule.vllm())]
        assert seen.seen_at[i] == (stops[0] if stops else -1)


@given(rows, st.integers(2, 4), st.integers(0, 16))
@settings(max_examples=200, deadline=None)
def test_what_vllm_is_told_stops_no_row_before_its_loop_covers_enough(sequences, count, cover):
    rule = RepetitionDetection(max_pattern_size=16, min_count=count, min_cover=cover)
    seen = LoopDetector.over(sequences, rule)
    for i, row in enumerate(sequences):
        stops = [n for n in range(1, len(row) + 1) if vllm_stops(row[:n], **rule.vllm())]
        assert not stops or 0 < seen.seen_at[i] <= stops[0]


@given(rows, st.data())
@settings(max_examples=100, deadline=None)
def test_rows_that_pause_are_the_same_rows(sequences, data):
    rule = RepetitionDetection(6, 1, 3, 8)
    straight = LoopDetector.over(sequences, rule)
    paused = LoopDetector(len(sequences), rule)
    at = [0] * len(sequences)
    while any(a < len(r) for a, r in zip(at, sequences, strict=True)):
        active = [a < len(r) and data.draw(st.booleans()) for a, r in zip(at, sequences, strict=True)]
        tokens = [r[a] if on else 99 for a, r, on in zip(at, sequences, active, strict=True)]
        paused.update(np.array(tokens), np.array(active))
        at = [a + on for a, on in zip(at, active, strict=True)]
    for name in ("looping", "period", "onset", "seen_at", "lengths", "copies"):
        np.testing.assert_array_equal(getattr(paused, name), getattr(straight, name))


def test_newly_looping_is_said_once():
    detector = LoopDetector(2, RepetitionDetection(4, 1, 3, 6))
    said = [detector.update([7, t]).tolist() for t in range(10)]
    # Row 0 repeats one token: six of them are the cover. Row 1 counts up and never repeats.
    assert said == [[n == 5, False] for n in range(10)]
    assert detector.lengths.tolist() == [10, 10]
    assert (detector.period[0], detector.onset[0], detector.copies[0]) == (1, 0, 6.0)


def test_a_new_answer_in_a_row_begins_with_nothing_seen():
    detector = LoopDetector(2, RepetitionDetection(4, 1, 3, 6))
    for _ in range(5):
        detector.update([7, 7])
    detector.reset([1])
    assert detector.update([7, 7]).tolist() == [True, False]
    assert detector.lengths.tolist() == [6, 1]
    for _ in range(5):
        last = detector.update([7, 7])
    assert last.tolist() == [False, True]


def test_a_counter_is_a_loop_when_numbers_are_alike():
    # "Step <n> : check \n", the number written digit by digit: 1..40, tokens 0-9 are the digits.
    digits = np.zeros(20, dtype=bool)
    digits[:10] = True
    row = [t for n in range(1, 41) for t in (11, *map(int, str(n)), 12, 13, 14)]
    assert not LoopDetector.over([row]).looping[0]
    near = LoopDetector.over([[15, 16, *row]], numbers=digits)
    # Period 5 once digits are one: 128 counted tokens from the third on. The first 9 steps have 5 tokens, the
    # others 6; 25 steps and 3 tokens more ("Step", "2", "6" is two of them, then ":") are
    # 2 + 9 * 5 + 16 * 6 + 4 = 147 tokens.
    assert near.rule == NEAR
    assert (near.period[0], near.onset[0], near.seen_at[0]) == (5, 2, 147)


def test_ids_that_the_table_of_digits_does_not_know_are_no_digits():
    near = LoopDetector.over([[700 + n % 50 for n in range(500)]], numbers=np.ones(3, dtype=bool))
    assert near.period.tolist() == [50]


def test_no_rows_and_empty_rows_are_fine():
    assert LoopDetector.over([]).looping.tolist() == []
    assert LoopDetector.over([[], [1]]).lengths.tolist() == [0, 1]


def test_a_run_longer_than_its_counter_is_no_loop_of_a_size_that_is_not_asked_for():
    detector = LoopDetector(1, RepetitionDetection(3, 3, 2, 0))
    for n in range(2**16 + 10):  # a period of 2 that 16 bits cannot count, while only 3 is looked for
        detector.update([n % 2])
    assert not detector.looping[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_pattern_size": 0},
        {"max_pattern_size": 3, "min_pattern_size": 4},
        {"min_count": 1},
        {"min_cover": -1},
        {"max_pattern_size": 20_000},
    ],
)
def test_rules_that_mean_nothing_are_refused(wrong):
    with pytest.raises(SettingsError, match="seen"):
        RepetitionDetection(**wrong)


def test_vllm_cannot_keep_a_cover_its_patterns_are_too_short_for():
    with pytest.raises(SettingsError, match="raise max_pattern_size to 24"):
        RepetitionDetection(max_pattern_size=8).vllm()


def test_a_token_for_each_row_is_asked_for():
    with pytest.raises(DataError, match="each of 3 rows"):
        LoopDetector(3).update([1, 2])
