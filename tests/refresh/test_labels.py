"""Labellers: what was written down, a rater who knows the truth, and labels that are bought once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdtrue.records import Answer, Comparison, Group
from holdtrue.refresh.labels import Pair, ask, by_reward, compared, pairs_of, recorded, remembered


def group(*texts: str, prompt: str = "p", comparisons: tuple[Comparison, ...] = ()) -> Group:
    return Group(prompt, tuple(map(Answer, texts)), comparisons)


def by_length(prompt: str, answer: str) -> float:
    return len(answer)


def test_pairs_are_of_different_answers_to_one_prompt() -> None:
    assert pairs_of([group("a", "b", "a"), group("a")]) == [Pair(0, 0, 1), Pair(0, 1, 2)]


def test_a_rater_who_knows_the_truth_prefers_it_and_calls_equals_a_tie() -> None:
    said = by_reward(by_length)([group("a", "bb"), group("aa", "b"), group("a", "b")])
    assert [c.preferred for c in said if c] == [(1, 0), (0, 1), None]


def test_a_noisy_rater_errs_as_often_as_the_logistic_says_and_always_in_the_same_pairs() -> None:
    asked = [group("a", "bb", prompt=str(i)) for i in range(4000)]
    rater = by_reward(by_length, scale=math.log(4))  # σ(ln 4) = 0.8
    first = [c.preferred for c in rater(asked) if c]
    assert sum(p == (1, 0) for p in first) / 4000 == pytest.approx(0.8, abs=0.02)
    turned = rater([group("bb", "a", prompt=str(i)) for i in range(4000)])
    assert [(1 - c.preferred[0], 1 - c.preferred[1]) for c in turned if c and c.preferred] == first
    other = by_reward(by_length, scale=math.log(4), seed=1)(asked)
    assert [c.preferred for c in other if c] != first


def test_written_labels_are_found_in_either_order_with_all_they_say() -> None:
    known = recorded([group("a", "b", "c", comparisons=(Comparison(0, 2, 0.8, rater="me"),))])
    same, turned, missing = known([group("a", "c"), group("c", "a"), group("a", "b")])
    assert same == Comparison(0, 1, 0.8, rater="me") and turned == Comparison(1, 0, 0.8, rater="me")
    assert missing is None


def test_answers_are_compared_where_labels_are_known() -> None:
    known = recorded([group("a", "c", comparisons=(Comparison(1, 0),))])
    (found,) = compared(known, [group("a", "b", "c", comparisons=(Comparison(0, 1),))])
    assert [c.preferred for c in found.comparisons] == [(2, 0)]


def test_a_label_is_bought_once_and_outlives_the_process(tmp_path: Path) -> None:
    asked: list[int] = []

    def dear(groups: Sequence[Group]) -> list[Comparison | None]:
        asked.append(len(groups))
        return [Comparison(1, 0) if group.answers[0].text == "a" else None for group in groups]

    groups, file = [group("a", "b", "c")], tmp_path / "new" / "labels.jsonl"
    first = ask(remembered(dear, file), groups, pairs_of(groups)[:2])
    again = ask(remembered(dear, file), groups, pairs_of(groups))
    assert asked == [2, 1] and again[:2] == first
    assert again[2] is None and again[0] is not None and again[0].comparisons == (Comparison(1, 0),)
