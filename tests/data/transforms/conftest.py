"""Groups in few words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdtrue.records import Answer, Comparison, Group, Message, Messages


def says(text: str) -> Messages:
    return (Message("assistant", text),)


@pytest.fixture
def pair() -> Callable[..., Group]:
    """A prompt with two answers of which the first is preferred."""

    def make(prompt: str, chosen: str = "yes", rejected: str = "no", **comparison: float) -> Group:
        answers = (Answer(says(chosen)), Answer(says(rejected)))
        return Group((Message("user", prompt),), answers, (Comparison(0, 1, **comparison),))  # type: ignore[arg-type]

    return make


@pytest.fixture
def rated() -> Callable[..., Group]:
    """A prompt with answers "0", "1", ... and their ratings, all by one rater."""

    def make(prompt: str, *ratings: float | None, rater: str | None = None) -> Group:
        answers = [
            Answer(says(str(i)), {} if rating is None else {"rating": rating}, rater=rater)
            for i, rating in enumerate(ratings)
        ]
        return Group((Message("user", prompt),), tuple(answers))

    return make
