from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest

from holdtrue.data.transforms.rater_scale import RaterScale
from holdtrue.errors import DataError
from holdtrue.records import Answer, Group, Message

Rated = Callable[..., Group]
Method = Literal["z_score", "min_max", "rank"]


def ratings(groups: list[Group]) -> list[float]:
    return [answer.ratings["rating"] for group in groups for answer in group.answers]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # of 1, 2, 2, 5: mean 2.5, variance (2.25 + 0.25 + 0.25 + 6.25) / 4 = 2.25
        ("z_score", [-1.0, -1 / 3, -1 / 3, 5 / 3]),
        ("min_max", [0.0, 0.25, 0.25, 1.0]),
        # ranks 1, 2.5, 2.5, 4, less a half, of 4
        ("rank", [0.125, 0.5, 0.5, 0.875]),
    ],
)
def test_a_rating_becomes_where_it_stands_among_those_of_its_rater(
    rated: Rated, method: Method, expected: list[float]
) -> None:
    groups = [rated("p", 1, 2, rater="a"), rated("q", 2, 5, rater="a"), rated("p", 70, 90, rater="b")]
    scaled, counts = RaterScale(method=method)(groups)
    assert ratings(scaled[:2]) == pytest.approx(expected)
    assert counts["raters"] == 2 and counts["ratings scaled"] == 6


@pytest.mark.parametrize("method", ["z_score", "min_max", "rank"])
def test_raters_who_differ_only_in_their_scale_agree_afterwards(rated: Rated, method: Method) -> None:
    groups = [rated("p", 0.8, 0.7, rater="a"), rated("p", 0.6, 0.5, rater="b")]
    one, other = RaterScale(method=method)(groups)[0]
    assert ratings([one]) == pytest.approx(ratings([other]))


@pytest.mark.parametrize(("method", "middle"), [("z_score", 0.0), ("min_max", 0.5), ("rank", 0.5)])
def test_a_rater_who_always_gives_the_same_says_nothing_and_is_counted(
    rated: Rated, method: Method, middle: float
) -> None:
    scaled, counts = RaterScale(method=method)([rated("p", 3, 3, 3, rater="a")])
    assert ratings(scaled) == [middle] * 3
    assert counts["raters who always gave the same"] == 1


def test_each_aspect_is_scaled_by_itself() -> None:
    answers = [Answer("x", {"kind": 1.0, "true": 10.0}, rater="a"), Answer("y", {"true": 30.0}, rater="a")]
    (group,), counts = RaterScale(method="min_max")([Group("p", tuple(answers))])
    assert [answer.ratings for answer in group.answers] == [{"kind": 0.5, "true": 0.0}, {"true": 1.0}]
    assert counts["ratings scaled"] == 3


def test_ratings_without_a_rater_stay_and_are_counted_and_alone_are_an_error(rated: Rated) -> None:
    mixed = [rated("p", 1, 2, rater="a"), rated("q", 4, 5)]
    scaled, counts = RaterScale()(mixed)
    assert scaled[1] == mixed[1] and counts["ratings without a rater, left as they are"] == 2
    with pytest.raises(DataError, match=r"no rating says who gave it; name the column .* rater=annotator"):
        RaterScale()(mixed[1:])
    with pytest.raises(DataError, match="no rating is there"):
        RaterScale()([Group((Message("user", "p"),), (Answer("a"),))])


def test_a_rating_that_is_no_number_is_an_error(rated: Rated) -> None:
    with pytest.raises(DataError, match="is nan, expected a finite number"):
        RaterScale()([rated("p", float("nan"), 1.0, rater="a")])
