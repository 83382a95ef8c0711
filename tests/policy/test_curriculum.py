"""Prompts come in turn; with a curriculum those that nothing is learnt from come less often, and do come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import optimising
from holdtrue.policy.curriculum import Curriculum, spreads
from holdtrue.policy.inputs import Scored
from holdtrue.policy.settings import CurriculumSettings
from holdtrue.rundir import RunDir, read_jsonl


def test_without_a_curriculum_every_prompt_comes_once_before_any_comes_again() -> None:
    plain = Curriculum(12, seed=42)
    drawn = [place for step in range(3) for place in plain.places(step, 4)]
    assert sorted(drawn) == list(range(12))
    assert plain.places(1, 4) == plain.places(1, 4)
    again = [place for step in range(3, 6) for place in plain.places(step, 4)]
    assert sorted(again) == sorted(drawn) and again != drawn


def test_the_spread_of_a_group_is_that_of_the_rewards_that_count() -> None:
    rewards = torch.tensor([1.0, 3.0, 5.0, 0.1, 0.1, 0.1, 1.0, 2.0, 9.0, 4.0, float("nan"), 5.0])
    keep = torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0]).bool()
    found = spreads(Scored(rewards, torch.ones(12, 1).bool(), keep, group=3))
    # sd (n - 1) of 1, 3, 5 is 2; equal rewards 0, without rounding; of 1, 2 it is sqrt(1/2); one alone 0
    assert found.tolist() == pytest.approx([2.0, 0.0, 0.5**0.5, 0.0]) and found[1] == 0


def test_a_prompt_is_drawn_by_its_running_spread_beside_the_mean_of_all_but_not_below_the_floor() -> None:
    drawn = Curriculum(5, seed=0, settings=CurriculumSettings(floor=0.2))
    assert drawn.weights().tolist() == [1, 1, 1, 1, 1]
    drawn.learn([0, 1, 2, 3], np.array([0.0, 1.0, 4.0, 2.0]))
    drawn.learn([1, 2], np.array([0.0, 6.0]))
    # running means 0, 0.5, 5, 2: their mean is 1.875
    assert drawn.spread_M[:4].tolist() == [0, 0.5, 5, 2] and np.isnan(drawn.spread_M[4])
    assert drawn.weights().tolist() == pytest.approx([0.2, 0.5 / 1.875, 1, 1, 1])


def test_prompts_not_seen_yet_come_first_then_those_without_spread_as_often_as_the_floor_says() -> None:
    drawn = Curriculum(10, seed=3, settings=CurriculumSettings(floor=0.25))
    drawn.learn(range(8), np.array([0.0] * 4 + [1.0] * 4))
    assert {8, 9} < set(drawn.places(0, 3)) and len(set(drawn.places(0, 10))) == 10
    drawn.learn([8, 9], np.array([0.0, 1.0]))
    first = [drawn.places(step, 1)[0] for step in range(4000)]
    flat = sum(place in (0, 1, 2, 3, 8) for place in first)
    # five prompts weigh 0.25 and five 1: a share of 0.2; the standard error is 0.0063
    assert flat / 4000 == pytest.approx(0.2, abs=0.02)
    assert set(first) == set(range(10))


def test_nothing_but_flat_prompts_are_drawn_alike_and_few_prompts_more_than_once() -> None:
    drawn = Curriculum(3, seed=0, settings=CurriculumSettings())
    drawn.learn(range(3), np.zeros(3))
    assert drawn.weights().tolist() == [1, 1, 1]
    assert sorted(drawn.places(0, 6)) == [0, 0, 1, 1, 2, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return optimising.write(tmp_path_factory.mktemp("curriculum"))


def split(prompts: Any, texts: Any, completion_ids: Any) -> list[float]:
    """The share of a word, but for prompts about some topics, where all answers are worth the same."""
    shares = optimising.kindness(None, None, completion_ids)
    return [0.5 if flat(prompt[0].content) else share for prompt, share in zip(prompts, shares, strict=True)]


def flat(prompt: str) -> bool:
    return sum(map(ord, prompt)) % 2 == 0


def test_a_run_draws_what_it_learns_nothing_from_less_often_and_goes_on_after_a_kill(
    folder: Path, tmp_path: Path
) -> None:
    made = optimising.settings(folder, training={"max_steps": 12, "curriculum": {"floor": 0.1}})
    run, broken = (RunDir.create(tmp_path / name, {}) for name in ("run", "broken"))
    whole = optimising.trainer(made, run, split)
    whole.train()
    by_step: dict[int, list[bool]] = {}
    for row in read_jsonl(run.path / "rollouts.jsonl"):
        by_step.setdefault(row["step"], []).append(flat(row["prompt"][0]["content"]))
    dull = {flat(text[0].content) for text in whole.job.prompts.texts}
    assert dull == {True, False}
    for row in run.metrics():
        # all rewards of a flat prompt are equal; an answer of another may be equal to its fellows too
        assert row["flat_groups"] >= np.mean(by_step[row["step"]])
    first = np.mean([np.mean(by_step[step]) for step in (1, 2, 3)])  # every prompt once
    later = np.mean([np.mean(by_step[step]) for step in range(4, 13)])
    assert later < first / 2

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimising.trainer(made, broken, split, tell=kill).train()
    resumed = optimising.trainer(made, broken, split)
    resumed.train()
    assert (run.path / "rollouts.jsonl").read_bytes() == (broken.path / "rollouts.jsonl").read_bytes()
    np.testing.assert_array_equal(whole.curriculum.spread_M, resumed.curriculum.spread_M)
