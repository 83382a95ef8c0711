"""What an answer's length adds to its reward, by DAPO's formula and by the token."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from holdtrue.policy.shaping import Shaping


def shaped(lengths: list[int], ended: list[bool] | None = None, longest: int = 10, **options: float) -> dict:
    made = Shaping(**options)  # type: ignore[arg-type]
    found = made(torch.tensor(lengths), torch.tensor(ended or [True] * len(lengths)), longest)
    return {name: part.tolist() for name, part in found.items()}


def test_overlong_falls_linearly_over_the_last_tokens() -> None:
    # eq. 13 with L_max = 10 and L_cache = 4: 0 up to 6 tokens, then ((10 - 4) - n) / 4
    assert shaped([1, 6, 7, 8, 10], overlong_cache=4) == {"overlong": [0, 0, -0.25, -0.5, -1]}


def test_a_cache_as_long_as_the_longest_answer_begins_with_the_first_token() -> None:
    assert shaped([1, 5], overlong_cache=10) == {"overlong": pytest.approx([-0.1, -0.5])}


def test_an_answer_without_its_end_loses_all_of_it_at_any_length() -> None:
    found = shaped([2, 10, 2], [False, False, True], overlong_cache=4, overlong_penalty=3.0)
    assert found == {"overlong": [-3, -3, 0]}


def test_every_token_costs_or_pays_the_same() -> None:
    assert shaped([0, 1, 8], per_token=-0.5) == {"length": [0, -0.5, -4]}
    assert shaped([8], per_token=0.25) == {"length": [2]}


def test_what_is_not_asked_for_is_no_part() -> None:
    assert shaped([3]) == {}


def test_a_penalty_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="overlong_penalty does nothing without overlong_cache"):
        Shaping(overlong_penalty=2.0)
