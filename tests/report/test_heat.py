"""Colours behind a text: every character is kept, and the colour is the value on the pair's scale."""

from __future__ import annotations

from typing import Any

import pytest

from holdtrue.report import heat


def test_the_pieces_together_are_the_text_and_the_farthest_value_has_the_full_colour() -> None:
    scale = heat.fit([-0.5, 0.25], around_zero=True)
    assert scale == heat.Scale(-0.5, 0.0, 0.5)
    found = heat.pieces("One. Two! rest", [(0, 4, -0.5), (5, 9, 0.25)], scale)
    assert found == [
        heat.Piece("One.", "−0.500", "down", 62),
        heat.Piece(" "),
        heat.Piece("Two!", "+0.250", "up", 31),
        heat.Piece(" rest"),
    ]


def test_values_of_tokens_are_coloured_from_the_lowest_to_the_highest() -> None:
    scale = heat.fit([-7.0, -5.0, -6.5], around_zero=False)
    assert scale == heat.Scale(-7.0, -6.0, -5.0)
    # -6.5 is half way from the middle to the lowest: half of 62 percent
    assert heat.pieces("ab", [(0, 1, -6.5), (1, 2, -5.0)], scale) == [
        heat.Piece("a", "−6.50", "down", 31),
        heat.Piece("b", "−5.00", "up", 62),
    ]


def test_values_that_are_all_alike_have_no_colour() -> None:
    for around_zero in (True, False):
        (piece,) = heat.pieces("a", [(0, 1, 0.0)], heat.fit([0.0], around_zero=around_zero))
        assert piece == heat.Piece("a", "+0.00", "up", 0)


def test_spans_beyond_the_text_that_is_shown_are_cut() -> None:
    scale = heat.Scale(-1.0, 0.0, 1.0)
    found = heat.pieces("abc", [(0, 2, 1.0), (2, 9, -1.0), (9, 12, 1.0)], scale)
    assert [(piece.text, piece.side) for piece in found] == [("ab", "up"), ("c", "down")]


def test_a_pair_shares_one_scale_and_one_without_values_has_none() -> None:
    row: dict[str, Any] = {"explanation": {"spans": [[[0, 1, 2.0]], [[0, 1, -1.0]]], "reasons": [None, None]}}
    drawn = heat.draw(row, "sentences", ["a", "b"])
    assert drawn is not None and drawn["scale"] == heat.Scale(-2.0, 0.0, 2.0)
    assert [own[0].strength for own in drawn["sides"]] == [62, 31]
    row["explanation"]["spans"] = [[], []]
    assert heat.draw(row, "sentences", ["a", "b"]) is None


@pytest.mark.parametrize(
    ("how", "words"), [("tokens", "after each token"), ("steps", "P(right)"), ("sentences", "without it")]
)
def test_the_caption_says_what_the_colours_are_and_what_they_cost(how: str, words: str) -> None:
    text = heat.caption({"how": how, "pairs": 10, "answers_scored": 1})
    assert words in text
    assert text.endswith("So explained are the first 10, by scoring 1 answer once more.")
