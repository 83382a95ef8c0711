"""Paired differences over prompts and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from holdtrue.evaluation import paired
from holdtrue.evaluation.bootstrap import interval_by_prompt


def test_equal_differences_have_an_interval_without_width() -> None:
    assert paired.interval(np.full((3, 12), 0.25), np.arange(12), 0.95) == (0.25, 0.25)


def test_seeds_that_disagree_widen_the_interval_though_prompts_agree() -> None:
    # of two seeds both are drawn half of the time, either one twice a quarter of it: means 0, 1/2 and 1
    differences = np.stack([np.zeros(40), np.ones(40)])
    assert paired.interval(differences, np.arange(40), 0.95) == (0.0, 1.0)


def test_one_seed_gives_the_interval_over_prompts() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 2, size=(2, 400)).astype(float)
    prompt = rng.integers(0, 120, size=400)
    expected = interval_by_prompt(ours - theirs, prompt, 0.95)
    assert paired.interval((ours - theirs)[None], prompt, 0.95) == pytest.approx(expected, abs=0.01)


def test_a_prompt_counts_once_however_often_its_comparisons_are_copied() -> None:
    values = np.random.default_rng(1).normal(size=(2, 30))
    once = paired.interval(values, np.arange(30), 0.9)
    copied = paired.interval(np.tile(values, 5), np.tile(np.arange(30), 5), 0.9)
    assert once is not None and copied == pytest.approx(once)


def test_too_few_prompts_have_no_interval() -> None:
    prompt = np.repeat(np.arange(9), 50)
    assert paired.interval(np.zeros((3, 450)), prompt, 0.95) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # effects of prompt (sd 1), seed (sd 0.1) and noise around a true mean of 0
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(50):
        values = rng.normal(size=60) + 0.1 * rng.normal(size=(4, 1)) + 0.5 * rng.normal(size=(4, 60))
        low, high = paired.interval(values, np.arange(60), 0.9) or (0, 0)
        covered += low <= 0 <= high
    assert 40 <= covered <= 50
