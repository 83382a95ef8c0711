from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from holdtrue.data.formats import ranked
from holdtrue.data.transforms.dedupe import Dedupe
from holdtrue.records import Comparison, Group

Pair = Callable[..., Group]

LONG = "the quick brown fox jumps over the lazy dog and runs away into the dark green wood before night falls"


def test_the_first_of_equal_rows_is_kept_also_when_the_sides_are_exchanged(pair: Pair) -> None:
    group = pair("p", "a", "b")
    exchanged = replace(group, answers=group.answers[::-1], comparisons=(Comparison(1, 0),))
    opposite = pair("p", "b", "a")
    groups, counts = Dedupe()([group, exchanged, opposite, pair("q", "a", "b")])
    assert groups == [group, opposite, pair("q", "a", "b")]
    assert counts == {"exact duplicates dropped": 1, "near duplicates dropped": 0}


def test_near_duplicates_are_dropped_unless_they_are_wanted(pair: Pair) -> None:
    groups = [pair("p", LONG, "no"), pair("p", LONG.upper() + "!", "no")]
    assert Dedupe()(groups) == (groups[:1], {"exact duplicates dropped": 0, "near duplicates dropped": 1})
    assert Dedupe(near=False)(groups) == (groups, {"exact duplicates dropped": 0})


def test_what_another_rater_says_is_no_duplicate(pair: Pair, rated: Callable[..., Group]) -> None:
    by = [replace(pair("p"), comparisons=(Comparison(0, 1, rater=rater),)) for rater in "aab"]
    assert Dedupe()(by)[0] == [by[0], by[2]]
    ratings = [rated("p", 1.0, rater="a"), rated("p", 1.0, rater="b"), rated("p", 0.5, rater="a")]
    assert Dedupe()([*ratings, ratings[0]])[0] == ratings


def test_other_ratings_that_say_the_same_order_are_no_duplicate(rated: Callable[..., Group]) -> None:
    groups = [ranked(g.prompt, g.answers) for g in (rated("p", 1.0, 2.0), rated("p", 1.0, 3.0))]
    assert groups[0].comparisons == groups[1].comparisons != ()
    assert Dedupe()([*groups, groups[0]])[0] == groups
