"""Rows that a loss can learn nothing from are refused, with what would do, before a model is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from holdtrue import kinds
from holdtrue.data.reader import ReadReport
from holdtrue.errors import DataError
from holdtrue.losses import FAMILY, compatible
from holdtrue.records import Answer, Comparison, Group
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.kinds.scalar import Scalar
from holdtrue.training.lessons import LEARNS_FROM, require_lessons

READ = ReadReport(files=[{"format": "completion"}])


def refuse(groups: list[Group], loss: str, kind: Any = None) -> str:
    made: Any = kinds.load(FAMILY, loss)()
    with pytest.raises(DataError) as error:
        require_lessons(groups, made, kind or Scalar(), READ)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


def accept(groups: list[Group], loss: str, kind: Any = None) -> None:
    made: Any = kinds.load(FAMILY, loss)()
    require_lessons(groups, made, kind or Scalar(), READ)


def rated(*ratings: float | None, name: str = "rating", prompt: str = "q") -> Group:
    answers = [
        Answer(f"answer {i}", {} if value is None else {name: value}) for i, value in enumerate(ratings)
    ]
    return Group(prompt, tuple(answers))


def compared(first: str, second: str, **comparison: Any) -> Group:
    return Group("q", (Answer(first), Answer(second)), (Comparison(0, 1, **comparison),))


@pytest.mark.parametrize("target", LEARNS_FROM)
def test_what_is_advised_fits_together_and_learns_from_it(target: str) -> None:
    loss, kind = LEARNS_FROM[target]
    made: Any = kinds.load(FAMILY, loss)()
    assert made.target == ("accepted" if target == "labels" else target)
    advised: Any = kinds.load("holdtrue.reward.kinds", kind)()
    assert compatible(advised, made)


def test_rows_without_what_a_loss_learns_from_are_told_a_loss_for_what_they_hold() -> None:
    said = refuse([rated(1, 2, name="depth")], "bradley_terry")
    assert said == (
        "loss bradley_terry learns from comparisons, which none of the 1 training rows (completion) holds; "
        "they hold ratings of depth (loss=aspect_regression with "
        "model.kind={kind: aspects, names: [depth]})"
    )
    assert "(loss=huber with model.kind=scalar)" in refuse([rated(1, 2)], "step_cross_entropy")
    assert "(loss=bradley_terry with model.kind=scalar)" in refuse([compared("a", "b")], "huber")
    labels = [Group("q", (Answer("a", label=True),))]
    assert "(loss=cross_entropy with model.kind=two_class)" in refuse(labels, "all_pairs")
    steps = [Group("q", (Answer("a", steps=((1, 1.0),)),))]
    assert "(loss=step_cross_entropy with model.kind=process)" in refuse(steps, "binary_cross_entropy")
    assert "nor anything else to learn from" in refuse([rated(None)], "bradley_terry")


def test_a_rating_of_another_name_is_named_with_those_there_are() -> None:
    said = refuse([rated(1, 2, name="depth")], "aspect_regression", Aspects(names=["dept"]))
    assert said.startswith("no training row has a rating called 'dept'; did you mean 'depth'? ratings seen")
    said = refuse([rated(1, 2, name="depth")], "mse")
    assert said.endswith("ratings seen: depth; set model.kind={kind: aspects, names: [depth]}")


def test_comparisons_that_prefer_nothing_are_refused() -> None:
    assert "all 2 comparisons are ties" in refuse([compared("a", "b", label=0.5)] * 2, "davidson")
    assert "all 1 comparisons weigh 0" in refuse([compared("a", "b", weight=0.0)], "hinge")
    both = [compared("a", "b"), compared("b", "a"), compared("a", "c", label=0.5)]
    assert "contradict each other" in refuse(both, "bradley_terry")
    accept([*both, compared("a", "b")], "bradley_terry")  # two against one
    accept([*both, compared("a", "c", label=0.6)], "bradley_terry")


def test_labels_and_steps_of_one_class_are_refused() -> None:
    def said(label: bool, text: str) -> Group:
        return Group("q", (Answer(text, label=label),))

    assert "all 2 labels are 1" in refuse([said(True, "a"), said(True, "b")], "cross_entropy")
    contradicted = [said(True, "a"), said(False, "a"), said(True, "b"), said(False, "b")]
    assert "all 4 labels contradict each other" in refuse(contradicted, "binary_cross_entropy")
    accept([said(True, "a"), said(False, "b")], "cross_entropy")
    accept([compared("a", "b")], "cross_entropy")  # one preferred, one not
    steps = [Group("q", (Answer("a\nb", steps=((1, 1.0), (3, value))),)) for value in (1.0, 0.0)]
    assert "all 2 judged steps are 1" in refuse(steps[:1], "step_cross_entropy")
    accept(steps, "step_cross_entropy")


def test_ratings_that_are_alike_are_refused() -> None:
    assert "all 3 ratings of 'rating' are 3" in refuse([rated(3, 3, 3)], "huber")
    two = Aspects(names=["depth", "truth"])
    rows = [Group("q", (Answer("a", {"depth": 1, "truth": 2}), Answer("b", {"depth": 3, "truth": 2})))]
    said = refuse(rows, "aspect_regression", two)
    assert "ratings of 'truth' are 2" in said and "leave it out of model.kind.names" in said


def test_lists_need_two_answers_of_different_rating() -> None:
    for loss in ("plackett_luce", "all_pairs"):
        assert "one rated answer" in refuse([rated(1), rated(2, None)], loss)
        assert "rated alike" in refuse([rated(1, 1), rated(2, 2)], loss)
        same = Group("q", (Answer("a", {"rating": 1}), Answer("a", {"rating": 2})))
        assert "the same text" in refuse([same], loss)
        accept([rated(1, 1, 2)], loss)
