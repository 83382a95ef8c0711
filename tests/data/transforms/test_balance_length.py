from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from holdtrue.data.audit import longer_answer
from holdtrue.data.reader import Reader
from holdtrue.data.transforms.balance_length import BalanceLength
from holdtrue.errors import DataError
from holdtrue.records import Group

Pair = Callable[..., Group]


def weighted_longer_answer(groups: Iterable[Group]) -> float:
    """Weighted accuracy of "the longer answer wins" on decided comparisons; equal lengths count half."""
    right = total = 0.0
    for group in groups:
        for c in group.comparisons:
            if c.preferred is not None:
                gap = len(group.answers[c.preferred[0]].text) - len(group.answers[c.preferred[1]].text)
                right += c.weight * (0.5 if gap == 0 else gap > 0)
                total += c.weight
    return right / total


@pytest.fixture
def biased(pair: Pair) -> list[Group]:
    """The longer answer wins three times, the shorter once; one tie and one pair of equal length."""
    longer = [pair(f"p{i}", "long answer", "short") for i in range(3)]
    return [*longer, pair("q", "ok", "wordy"), pair("t", "a", "bbb", label=0.5), pair("e", "yes", "not")]


def test_weights_make_both_sides_count_the_same_and_keep_their_sum(biased: list[Group]) -> None:
    groups, counts = BalanceLength()(biased)
    # (3 + 1) / (2 · 3) = 2/3 for each longer winner, (3 + 1) / (2 · 1) = 2 for the shorter one
    weights = [group.comparisons[0].weight for group in groups]
    assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2, 1, 1])
    assert sum(weights) == pytest.approx(6)
    assert weighted_longer_answer(groups) == pytest.approx(0.5)
    assert counts == {
        "comparisons won by the longer answer": 3,
        "comparisons won by the shorter answer": 1,
    }


def test_given_weights_are_balanced_not_counts(pair: Pair) -> None:
    groups, _ = BalanceLength()([pair("p", "long", "s", weight=3.0), pair("q", "s", "long", weight=1.0)])
    assert [group.comparisons[0].weight for group in groups] == pytest.approx([2, 2])


def test_dropping_leaves_as_many_of_one_side_as_of_the_other(biased: list[Group]) -> None:
    groups, counts = BalanceLength(by="drop")(biased)
    assert groups[-3:] == biased[-3:] and len(groups) == 4 and groups[0] in biased[:3]
    assert counts == {"comparisons dropped": 2, "rows dropped": 2}
    assert longer_answer(groups)["accuracy"] == 0.5


@pytest.mark.parametrize("by", ["weight", "drop"])
def test_with_one_side_only_there_is_nothing_to_balance(pair: Pair, by: Literal["weight", "drop"]) -> None:
    with pytest.raises(DataError, match="wins 2 comparisons and the shorter 0: one side has nothing"):
        BalanceLength(by=by)([pair("p", "long", "s"), pair("q", "long", "s")])


def test_rows_without_comparisons_are_kept(biased: list[Group]) -> None:
    bare = replace(biased[0], comparisons=())
    assert bare in BalanceLength(by="drop")([*biased, bare])[0]


def test_on_answers_judged_by_a_model_length_is_right_nine_times_in_ten_before_and_half_after(
    shared: Callable[[str], Path],
) -> None:
    groups = list(Reader([str(shared("data/hh_helpful_ai_pairs/train.jsonl.gz"))]))
    assert weighted_longer_answer(groups) == pytest.approx(0.901, abs=0.001)
    balanced, _ = BalanceLength()(groups)
    assert weighted_longer_answer(balanced) == pytest.approx(0.5)
    fewer, counts = BalanceLength(by="drop")(groups)
    assert longer_answer(fewer)["accuracy"] == pytest.approx(0.5)
    assert len(fewer) == len(groups) - counts["rows dropped"]
