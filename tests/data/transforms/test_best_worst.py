from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from holdtrue.data.transforms.best_worst import BestWorst
from holdtrue.data.transforms.rater_scale import RaterScale
from holdtrue.errors import DataError
from holdtrue.records import Answer, Comparison, Group, Message, Source

Rated = Callable[..., Group]


def said(group: Group) -> set[tuple[str, str]]:
    """(preferred, other) of every comparison, as texts."""
    return {(group.answers[c.first].text, group.answers[c.second].text) for c in group.comparisons}


def test_the_best_and_the_worst_of_n_make_one_pair(rated: Rated) -> None:
    (group,), counts = BestWorst()([rated("p", 0.3, 0.9, 0.1, 0.5)])
    assert said(group) == {("1", "2")} and len(group.answers) == 4
    assert counts["pairs made"] == 1


def test_all_pairs_are_those_at_least_the_gap_apart(rated: Rated) -> None:
    (group,), counts = BestWorst(pairs="all", min_gap=0.2)([rated("p", 0.7, 0.5, 0.4, 0.4)])
    # 0.7 - 0.5 is 0.2 but for rounding; 0.5 - 0.4 is too little and 0.4 - 0.4 never a pair
    assert said(group) == {("0", "1"), ("0", "2"), ("0", "3")}
    assert counts["pairs made"] == 3 and counts["pairs rated too alike, left out"] == 3


def test_answers_in_rows_of_their_own_are_compared_when_the_prompt_is_the_same(rated: Rated) -> None:
    rows = [
        replace(rated("p", rating), answers=(Answer(f"{rating}", {"rating": rating}),), meta=meta)
        for rating, meta in [(1.0, {"topic": "t", "id": 1}), (3.0, {"topic": "t", "id": 2})]
    ]
    (group,), _ = BestWorst()(rows)
    assert said(group) == {("3.0", "1.0")}
    assert group.meta == {"topic": "t"}  # what the rows do not agree on is of one answer alone


def test_raters_are_not_compared_with_each_other(rated: Rated) -> None:
    rows = [rated("p", 0.8, 0.7, rater="a"), rated("p", 0.5, 0.6, rater="b"), rated("p", 0.9, rater="c")]
    result, counts = BestWorst()(rows)
    assert [(said(group), group.comparisons[0].rater) for group in result] == [
        ({("0", "1")}, "a"),
        ({("1", "0")}, "b"),
    ]
    assert counts["prompts with a single rated answer, left out"] == 1


def test_an_answer_rated_several_times_counts_with_its_mean(rated: Rated) -> None:
    rows = [rated("p", 1.0, 0.5), rated("p", 0.2, 0.9)]  # means 0.6 and 0.7
    (group,), _ = BestWorst()(rows)
    assert said(group) == {("1", "0")}
    assert [answer.ratings["rating"] for answer in group.answers] == pytest.approx([0.6, 0.7])


def test_rows_without_ratings_stay_and_comparisons_of_rated_rows_are_replaced(rated: Rated) -> None:
    pair = Group("q", (Answer("a"), Answer("b")), (Comparison(1, 0),))
    compared = replace(rated("p", 1.0, 2.0, None), comparisons=(Comparison(0, 1),))
    result, counts = BestWorst()([pair, compared])
    assert result[0] == pair and said(result[1]) == {("1", "0")}
    assert counts == {
        "rows without a rating, left as they are": 1,
        "comparisons replaced": 1,
        "answers without a rating, left out": 1,
        "pairs rated too alike, left out": 0,
        "pairs made": 1,
    }


def test_of_several_ratings_one_is_named() -> None:
    answers = (Answer("a", {"kind": 1.0, "true": 0.0}), Answer("b", {"kind": 0.0, "true": 1.0}))
    groups = [Group("p", answers, source=Source("f.jsonl", 3))]
    with pytest.raises(DataError, match=r"several ratings \(kind, true\); name one: .* f\.jsonl:3"):
        BestWorst()(groups)
    assert said(BestWorst(rating="true")(groups)[0][0]) == {("b", "a")}
    with pytest.raises(DataError, match="no answer has one called 'truth'"):
        BestWorst(rating="truth")(groups)


@pytest.mark.parametrize(
    ("ratings", "says"),
    [
        ((None, None), r"makes pairs of ratings, but no answer has one \(first at a row without a file\)"),
        ((1.0,), "made no pair: 1 prompts with a single rated answer, left out"),
        ((1.0, 1.0), "made no pair: 1 pairs rated too alike, left out"),
        ((1.0, float("nan")), "is nan, expected a finite number"),
        ((1.0, float("inf")), "is inf, expected a finite number"),
    ],
)
def test_ratings_that_make_no_pair_are_an_error(
    rated: Rated, ratings: tuple[float | None, ...], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        BestWorst()([rated("p", *ratings)])


def test_pairs_within_raters_or_after_scaling_recover_the_order_that_pooled_raw_ratings_lose() -> None:
    """Rater a gives a good and a bad answer 0.8 and 0.7, rater b 0.6 and 0.5, both with noise of 0.03.

    Each answer goes to a rater at random. A pair of raw ratings is one rater's half of the time, and then
    right with Φ(0.1 / 0.03√2) = Φ(2.357) = 0.991. A good answer of a beats a bad one of b (0.3 apart),
    but a good one of b at 0.6 loses to a bad one of a at 0.7, right with Φ(-2.357) only:
    pooled 0.991 / 2 + 1 / 4 + 0.009 / 4 = 0.748, within raters and after scaling 0.991.
    """
    noise, generator = 0.03, np.random.default_rng(0)
    within = NormalDist().cdf(0.1 / (noise * 2**0.5))
    pooled = within / 2 + 1 / 4 + (1 - within) / 4
    rows = []
    for number in range(2000):
        for text, rating in (("good", 0.8), ("bad", 0.7)):
            rater = "ab"[generator.integers(2)]
            value = rating - 0.2 * (rater == "b") + noise * generator.standard_normal()
            answer = Answer(text, {"rating": float(value)}, rater=rater)
            rows.append(Group((Message("user", f"p{number}"),), (answer,)))

    def agreement(groups: list[Group]) -> float:
        right = [said(group) == {("good", "bad")} for group in groups]
        return sum(right) / len(right)

    # 2000 pairs: standard deviations 0.010 and 0.002; 1000 within raters: 0.003
    assert agreement(BestWorst(pool_raters=True)(rows)[0]) == pytest.approx(pooled, abs=0.03)
    assert agreement(BestWorst()(rows)[0]) == pytest.approx(within, abs=0.01)
    scaled = RaterScale()(rows)[0]
    assert agreement(BestWorst(pool_raters=True)(scaled)[0]) == pytest.approx(within, abs=0.01)
