import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import SettingsError
from holdtrue.health.cycles import Cycle, cycles, tail_cycle


def symbols(text):
    return np.array([ord(c) for c in text], dtype=np.int32)


def every_cycle(x, max_period, min_copies, min_cover):
    """By the definition: all maximal stretches of every period."""
    found = []
    for p in range(1, max_period + 1):
        run = 0
        for i in range(p, len(x) + 1):
            if i < len(x) and x[i] == x[i - p]:
                run += 1
            else:
                if run and run + p >= min_cover and run + p >= min_copies * p:
                    found.append(Cycle(i - run - p, i, p, (run + p) / p))
                run = 0
    return found


sequences = st.lists(st.integers(0, 2), max_size=60).map(np.array) | st.builds(
    lambda head, word, times, tail: np.array(head + word * times + tail, dtype=np.int64),
    st.lists(st.integers(0, 3), max_size=20),
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.integers(1, 9),
    st.lists(st.integers(0, 3), max_size=9),
)
limits = st.fixed_dictionaries(
    {
        "max_period": st.integers(1, 12),
        "min_copies": st.sampled_from([2, 2.5, 3, 4]),
        "min_cover": st.integers(1, 30),
    }
)


def test_a_phrase_at_the_end_with_a_cut_last_copy():
    # " yes" three times is 12 symbols from 2 on, " ye" is 3 more: 15 / 4 copies
    assert tail_cycle(symbols("no yes yes yes ye"), max_period=8, min_copies=3, min_cover=8) == Cycle(
        2, 17, 4, 3.75
    )


def test_what_follows_the_loop_is_forgiven_up_to_the_slack():
    x = symbols("xyz" + "ab" * 10 + "!?.")
    at = {"max_period": 8, "min_copies": 3, "min_cover": 8}
    assert tail_cycle(x, slack=2, **at) is None
    assert tail_cycle(x, slack=3, **at) == Cycle(3, 23, 2, 10)


def test_text_without_a_loop_has_none_and_neither_has_an_empty_one():
    at = {"max_period": 64, "min_copies": 2, "min_cover": 4, "slack": 3}
    assert tail_cycle(symbols("the quick brown fox jumps over the lazy dog"), **at) is None
    assert tail_cycle(symbols(""), **at) is None
    assert cycles(symbols(""), max_period=64, min_copies=2, min_cover=4) == []


def test_a_repeated_letter_has_period_one_not_two_or_three():
    assert cycles(symbols("abc" + "z" * 12 + "de"), max_period=6, min_copies=2, min_cover=6) == [
        Cycle(3, 15, 1, 12)
    ]


def test_cycles_within_a_text_are_found_with_their_place():
    # "la" * 5 is [3, 13), then two symbols, "0123" * 3 is [15, 27), and the text goes on.
    assert cycles(
        symbols("so lalalalala, 0123012301234 and on"), max_period=6, min_copies=3, min_cover=9
    ) == [
        Cycle(3, 13, 2, 5),
        Cycle(15, 27, 4, 3),
    ]


@given(sequences, limits, st.integers(0, 8))
@settings(max_examples=400, deadline=None)
def test_the_tail_is_what_the_definition_says(x, limit, slack):
    ending = [c for c in every_cycle(x, **limit) if c.end >= len(x) - slack]
    found = tail_cycle(x, slack=slack, **limit)
    assert (found is None) == (not ending)
    if found:
        assert found in ending
        assert (found.cover, -found.period) == max((c.cover, -c.period) for c in ending)


@given(sequences, limits)
@settings(max_examples=400, deadline=None)
def test_all_cycles_are_what_the_definition_says(x, limit):
    every = every_cycle(x, **limit)
    shortest = [
        c
        for c in every
        if not any(
            c.period % o.period == 0 and o.period < c.period and o.start <= c.start and c.end <= o.end
            for o in every
        )
    ]
    assert cycles(x, **limit) == sorted(shortest)


@pytest.mark.parametrize(
    "wrong", [{"max_period": 0}, {"min_copies": 1}, {"min_cover": 0}], ids=lambda w: next(iter(w))
)
def test_limits_that_mean_nothing_are_refused(wrong):
    with pytest.raises(SettingsError, match="seen"):
        tail_cycle(symbols("aaaa"), **{"max_period": 4, "min_copies": 2, "min_cover": 2, **wrong})
