"""The terminal summary."""

from __future__ import annotations

import io
import math
import re

import numpy as np
from rich.console import Console

from holdtrue.evaluation import evaluate
from holdtrue.evaluation.summary import render
from holdtrue.records import Answer, Comparison, Group
from holdtrue.settings import EvaluationSettings


def printed(count: int = 40, name: str = "pairs.jsonl", reward: float = 1.0, **meta: object) -> str:
    groups = [
        Group(f"p{n}", (Answer("aa"), Answer("b")), (Comparison(0, 1),), {"odd": n % 2, **meta})
        for n in range(count)
    ]
    rewards = [np.array([reward if n % 4 else -reward, 0.0]) for n in range(count)]
    result = evaluate(groups, rewards, EvaluationSettings(slices=list(meta)), name, {})
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    console.print(render(result))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_accuracy_stands_beside_the_longer_answer_with_both_intervals() -> None:
    text = printed()
    assert "75.0% (95% interval 59.8% – 85.8%), wilson" in text
    assert "100.0% (95% interval 91.2% – 100.0%)" in text
    assert "40 of 40 prompts, 0 with equal rewards" in text


def test_slices_are_listed_with_counts() -> None:
    lines = [line.split() for line in printed().splitlines()]
    assert ["odd", "0", "20", "50.0%", "29.9%", "–", "70.1%"] in lines


def test_text_from_data_is_neither_markup_nor_terminal_control() -> None:
    text = printed(name="[red]x[/red]\x1b[2J", tag="[bold]\x1b]0;title\x07")
    assert "[red]x[/red]�[2J" in text
    assert "[bold]�]0;title�" in text


def test_what_could_not_be_measured_is_said() -> None:
    text = printed(count=2, reward=math.nan)
    assert "not measured" in text
    assert "2 comparisons without both rewards" in text
    assert "2 answers: no finite reward" in text


def test_the_baselines_are_told_apart_and_a_missing_one_gives_its_reason() -> None:
    lines = [line.strip() for line in plain(printed()).splitlines()]
    assert "shorter answer  0.0% (95% interval 0.0% – 8.8%)" in lines
    assert "bag of words    not measured: no training pairs are at hand" in lines


def test_rated_answers_give_one_line_more() -> None:
    answers = tuple(Answer("x" * n, {"rating": float(n)}) for n in range(3))
    groups = [Group(f"p{n}", answers, (Comparison(2, 0),)) for n in range(10)]
    result = evaluate(groups, [np.array([0.0, 2.0, 1.0])] * 10, EvaluationSettings(), "rated", {})
    console = Console(file=io.StringIO(), width=200)
    console.print(render(result))
    assert isinstance(console.file, io.StringIO)
    # The reward picks the answer rated 1, in every prompt.
    assert (
        "best of n       of 3, its pick is rated 1 (1 – 1); the best 2, a random one 1, the longest 2 "
        "(10 lists of 10 prompts)"
    ) in [line.strip() for line in console.file.getvalue().splitlines()]
