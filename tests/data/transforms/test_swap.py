from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from holdtrue.data.transforms.swap import Swap
from holdtrue.records import Comparison, Group

Pair = Callable[..., Group]


def test_a_swapped_comparison_says_the_same_the_other_way_round(pair: Pair) -> None:
    group = pair("p", label=0.75, weight=2.0, margin=0.5)
    (swapped,), counts = Swap(share=1)([group])
    assert swapped.comparisons == (Comparison(1, 0, label=0.25, weight=2.0, margin=0.5),)
    assert swapped.comparisons[0].preferred == group.comparisons[0].preferred == (0, 1)
    assert swapped.answers == group.answers
    assert counts == {"comparisons swapped": 1}


def test_about_half_is_swapped_so_that_the_first_side_wins_half_of_the_time(pair: Pair) -> None:
    groups, counts = Swap()([pair(f"p{i}") for i in range(1000)])
    first_wins = sum(group.comparisons[0].label > 0.5 for group in groups)
    assert counts["comparisons swapped"] == 1000 - first_wins
    assert 430 <= first_wins <= 570  # 500 expected, standard deviation 15.8


def test_a_mirror_keeps_the_comparison_and_adds_the_other(pair: Pair) -> None:
    group = pair("p")
    (mirrored,), counts = Swap(share=1, mirror=True)([group])
    assert mirrored.comparisons == (Comparison(0, 1), Comparison(1, 0, label=0.0))
    assert counts == {"mirrored comparisons added": 1}


@pytest.mark.parametrize("mirror", [False, True])
def test_rows_without_comparisons_stay(pair: Pair, mirror: bool) -> None:
    group = replace(pair("p"), comparisons=())
    assert Swap(share=1, mirror=mirror)([group]) == ([group], {})
