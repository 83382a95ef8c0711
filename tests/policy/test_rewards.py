"""What answers are worth: scales, weights, the guard's verdicts, and functions that misbehave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdtrue.errors import DataError, QualityError, SettingsError
from holdtrue.policy.rewards import FunctionJudge, RewardStack, ScorerJudge, load_function
from holdtrue.policy.rows import Finish
from holdtrue.policy.samples import Samples
from holdtrue.policy.settings import GuardSettings, RewardSettings
from holdtrue.records import Group, Message, Rollout

GUARD = GuardSettings()


def rollouts(*texts: str) -> list[Rollout]:
    return [Rollout("ask", text, completion_ids=[7, row]) for row, text in enumerate(texts)]


def samples(*finish: Finish) -> Samples:
    ids = [np.array([7, row]) for row in range(len(finish))]
    logprobs = [np.zeros(2, dtype=np.float32) for _ in finish]
    return Samples([np.array([1])], len(finish), ids, logprobs, list(finish))


def stack(*values: Sequence[Any], guard: GuardSettings = GUARD, **options: Any) -> RewardStack:
    """A stack of functions that return the given values for the rows by the answers' last ids."""
    settings = RewardSettings(function="f.py:f", **options)

    def function(own: Sequence[Any]) -> FunctionJudge:
        return FunctionJudge(lambda prompts, texts, ids: [own[row[-1]] for row in ids], "f", 1.0)

    return RewardStack([function(own) for own in values], [settings] * len(values), guard)


def test_rewards_count_in_deviations_of_the_start_policy_times_their_weight() -> None:
    made = stack([1.0, 3.0, 9.0], weight=2.0, clip=1.5)
    made.fit(rollouts("a", "b"), 2)  # rewards 1 and 3: mean 2, std (n - 1) √2
    judged = made.score(rollouts("a", "b", "c"), samples("stop", "stop", "stop"))
    assert judged.raw.tolist() == [2, 6, 18]
    # 2·(1 - 2)/√2, 2·(3 - 2)/√2, and 2·(9 - 2)/√2 clipped at 2·1.5
    assert judged.rewards.tolist() == pytest.approx([-(2**0.5), 2**0.5, 3.0])


def test_the_scale_of_a_part_says_how_it_counts() -> None:
    made = stack([1.0, 3.0], weight=2.0)
    with pytest.raises(ValueError, match="not fitted"):
        made.scale(0)
    made.fit(rollouts("a", "b"), 2)
    assert made.scale(0) == pytest.approx((2 / 2**0.5, 2))
    assert stack([1.0], whiten=False, weight=0.5).scale(0) == (0.5, 0)


def test_parts_add_up_as_they_are_where_they_are_not_whitened() -> None:
    made = stack([1.0, 2.0], [10.0, 20.0], whiten=False, weight=0.5)
    made.fit(rollouts("a", "b"), 2)
    assert made.score(rollouts("a", "b"), samples("stop", "stop")).rewards.tolist() == [5.5, 11]


def test_a_reward_that_is_always_the_same_cannot_be_whitened_and_says_what_to_do() -> None:
    with pytest.raises(QualityError, match=r"reward f.py:f: .*all are about 1; set whiten: false"):
        stack([1.0, 1.0]).fit(rollouts("a", "b"), 2)


@pytest.mark.parametrize(
    ("on_hit", "keep", "rewards"),
    [
        ("exclude", [True, True, False, False], [1, 2]),
        ("penalise", [True, True, True, True], [1, 2, -5, -5]),
        ("none", [True, True, True, True], [1, 2, 3, 4]),
    ],
)
def test_the_guards_verdict_leaves_out_or_penalises(
    on_hit: Any, keep: list[bool], rewards: list[float]
) -> None:
    made = stack([1.0, 2.0, 3.0, 4.0], guard=GuardSettings(on_hit=on_hit, penalty=-5), whiten=False)
    judged = made.score(rollouts(*"abcd"), samples("stop", "length", "loop", "control"))
    assert judged.keep.tolist() == keep and judged.rewards[judged.keep].tolist() == rewards
    assert judged.guarded == (0 if on_hit == "none" else 2)


def test_answers_without_their_end_get_the_fixed_reward() -> None:
    guard = GuardSettings(on_hit="penalise", penalty=-5, no_end_reward=-1)
    judged = stack([1.0, 2.0, 3.0], guard=guard, whiten=False).score(
        rollouts(*"abc"), samples("stop", "length", "loop")
    )
    assert judged.rewards.tolist() == [1, -1, -5]


def test_an_answer_without_a_finite_reward_is_left_out_and_counted() -> None:
    made = stack([1.0, None, float("inf"), 4.0], whiten=False)
    judged = made.score(rollouts(*"abcd"), samples("stop", "stop", "stop", "stop"))
    assert judged.keep.tolist() == [True, False, False, True] and judged.nan == 2


def test_no_finite_reward_at_all_ends_the_run_in_one_line() -> None:
    with pytest.raises(QualityError, match=r"^none of 2 answers has a finite reward;[^\n]*$"):
        stack([float("nan"), None], whiten=False).score(rollouts("a", "b"), samples("stop", "stop"))


def test_a_penalised_answer_needs_no_reward_of_its_own() -> None:
    made = stack([1.0, None], guard=GuardSettings(on_hit="penalise", penalty=-2), whiten=False)
    judged = made.score(rollouts("a", "b"), samples("stop", "loop"))
    assert judged.keep.tolist() == [True, True] and judged.rewards.tolist() == [1, -2]


def test_scorers_see_a_prompts_answers_as_one_group_in_the_form_they_were_trained_on() -> None:
    seen: list[Group] = []

    class Lengths:
        def score(self, groups: Sequence[Group]) -> list[Any]:
            seen.extend(groups)
            return [np.array([len(a.text) for a in group.answers], dtype=np.float32) for group in groups]

    given = rollouts("<|pad|>", "bb")
    assert ScorerJudge(Lengths(), "chat").judge(given, 2).tolist() == [7, 2]
    assert ScorerJudge(Lengths(), "raw").judge(given, 1).tolist() == [7, 2]
    assert seen[0].prompt == (Message("user", "ask"),)
    assert seen[0].answers[0].content == (Message("assistant", "<|pad|>"),)
    assert [group.prompt for group in seen[1:]] == ["ask", "ask"]


def judge(function: Any, timeout: float = 5.0) -> FunctionJudge:
    return FunctionJudge(function, "r.py:f", timeout)


def test_a_function_that_raises_is_told_with_the_answer() -> None:
    def function(prompts: Any, texts: Sequence[str], ids: Any) -> list[float]:
        return [1 / (text != "bad") for text in texts]

    with pytest.raises(DataError, match=r"r.py:f raised ZeroDivisionError: .*, at answer 1: 'bad'$"):
        judge(function).judge(rollouts("good", "bad"), 2)


def test_a_function_that_raises_for_no_answer_alone_says_so() -> None:
    def function(prompts: Any, texts: Sequence[str], ids: Any) -> list[float]:
        if len(texts) > 1:
            raise ValueError("one at a time, please")
        return [1.0]

    with pytest.raises(DataError, match=r"ValueError: one at a time, please on 2 answers at once$"):
        judge(function).judge(rollouts("a", "b"), 2)


def test_a_function_that_hangs_is_given_up() -> None:
    with pytest.raises(DataError, match=r"took longer than 0.05 s for 2 answers"):
        judge(lambda *_: time.sleep(3), 0.05).judge(rollouts("a", "b"), 2)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0], "returned 1 rewards for 2 answers"),
        (None, "returned a NoneType; a list of 2 numbers"),
        ([1.0, "much"], "returned 'much' for answer 1; a number or None"),
        (torch.zeros(3), "returned 3 rewards for 2 answers"),
    ],
)
def test_a_function_must_return_a_number_for_each_answer(returned: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        judge(lambda *_: returned).judge(rollouts("a", "b"), 2)


def test_tensors_and_arrays_are_numbers_too() -> None:
    for values in (torch.tensor([1.0, 2.0]), np.array([1.0, 2.0])):
        assert judge(lambda *_, own=values: own).judge(rollouts("a", "b"), 2).tolist() == [1, 2]


def test_a_function_is_loaded_from_its_file_or_a_line_says_why_not(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(prompts, texts, ids):\n    return [3.0] * len(texts)\n")
    assert judge(load_function(f"{file}:f")).judge(rollouts("a"), 1).tolist() == [3]
    with pytest.raises(SettingsError, match="has no function 'g'"):
        load_function(f"{file}:g")
    with pytest.raises(SettingsError, match="does not exist"):
        load_function(f"{tmp_path}/none.py:f")
    file.write_text("import nonsense_that_is_nowhere\n")
    with pytest.raises(SettingsError, match="cannot be imported: ModuleNotFoundError"):
        load_function(f"{file}:f")
