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
from holdtrue.policy.rewards import FunctionJudge, RewardStack, load_function
from holdtrue.policy.samples import Samples
from holdtrue.policy.settings import GuardSettings, RewardSettings
from holdtrue.policy.shaping import Shaping
from holdtrue.records import Finish, Rollout

GUARD = GuardSettings()


def rollouts(*texts: str) -> list[Rollout]:
    return [Rollout("ask", text, completion_ids=[7, row]) for row, text in enumerate(texts)]


def samples(*finish: Finish) -> Samples:
    ids = [np.array([7, row]) for row in range(len(finish))]
    logprobs = [np.zeros(2, dtype=np.float32) for _ in finish]
    return Samples([np.array([1])], len(finish), ids, logprobs, list(finish))


def stack(
    *values: Sequence[Any], guard: GuardSettings = GUARD, shaping: Shaping | None = None, **options: Any
) -> RewardStack:
    """A stack of functions that return the given values for the rows by the answers' last ids."""
    settings = RewardSettings(function="f.py:f", **options)

    def function(own: Sequence[Any]) -> FunctionJudge:
        return FunctionJudge(lambda prompts, texts, ids: [own[row[-1]] for row in ids], "f", 1.0)

    return RewardStack([function(own) for own in values], [settings] * len(values), guard, shaping, 4)


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


def test_shaping_is_added_after_whitening_and_shown_as_parts_of_its_own() -> None:
    made = stack([1.0, 3.0], [4.0, 0.0], weight=2.0, shaping=Shaping(overlong_cache=4, per_token=-0.25))
    made.fit(rollouts("a", "b"), 2)
    judged = made.score(rollouts("a", "b"), samples("stop", "length"))
    assert {name: part.tolist() for name, part in judged.parts.items()} == {
        "f": pytest.approx([-(2**0.5), 2**0.5]),  # 2·(r - 2)/√2
        "f-2": pytest.approx([2**0.5, -(2**0.5)]),
        "overlong": [-0.5, -1],  # 2 of at most 4 tokens, the last 4 of them cost; no end token: all of it
        "length": [-0.5, -0.5],
    }
    assert judged.rewards.tolist() == pytest.approx([-1, -1.5]) and judged.raw.tolist() == [10, 6]


def test_where_the_guard_sets_the_reward_no_shaping_is_added() -> None:
    guard = GuardSettings(on_hit="penalise", penalty=-5, no_end_reward=-2)
    made = stack([1.0, 2.0, 3.0], guard=guard, whiten=False, shaping=Shaping(per_token=-0.25))
    judged = made.score(rollouts(*"abc"), samples("stop", "length", "loop"))
    assert judged.rewards.tolist() == [0.5, -2, -5]


def test_equal_names_of_parts_are_numbered_and_those_of_shaping_are_taken() -> None:
    places = ("a.py:length", "b.py:mine", "c.py:mine", "d.py:mine")
    settings = [RewardSettings(function=place) for place in places]
    settings += [RewardSettings(model=f"runs/{name}") for name in ("mine", "my-2", "my", "my")]
    judges = [FunctionJudge(lambda *_: [1.0], "f")] * len(settings)
    expected = ["length-2", "mine", "mine-2", "mine-3", "mine-4", "my-2", "my", "my-3"]
    assert RewardStack(judges, settings, GUARD).names == expected


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


def test_a_function_that_gives_its_numbers_one_by_one_may_hang_or_raise_too() -> None:
    def function(prompts: Any, texts: Sequence[str], ids: Any) -> Any:
        for text in texts:
            time.sleep(3 * (text == "slow"))
            yield 1 / (text != "bad")

    assert judge(function).judge(rollouts("a", "b"), 2).tolist() == [1, 1]
    with pytest.raises(DataError, match=r"took longer than 0.05 s"):
        judge(function, 0.05).judge(rollouts("a", "slow"), 2)
    with pytest.raises(DataError, match=r"raised ZeroDivisionError: .*, at answer 1: 'bad'$"):
        judge(function).judge(rollouts("a", "bad"), 2)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0], "returned 1 rewards for 2 answers"),
        (None, "returned a NoneType; a list of 2 numbers"),
        ([1.0, "much"], "returned 'much' for answer 1; a number or None"),
        ([1.0, "2"], "returned '2' for answer 1; a number or None"),
        ([1.0, 2j], "for answer 1; a number or None"),
        (torch.zeros(2, 3), "for answer 0; a number or None"),
        ("12", "returned a str; a list of 2 numbers"),
        (b"12", "returned a bytes; a list of 2 numbers"),
        ({0: 9.0, 1: 9.0}, "returned a dict; a list of 2 numbers"),
        ({1.0, 2.0}, "returned a set; a list of 2 numbers"),
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
    file.write_text("def f(prompts, texts): ...\n")
    with pytest.raises(
        SettingsError, match=r"takes \(prompts, texts\); it is called with \(prompts, texts, comp"
    ):
        load_function(f"{file}:f")
    with pytest.raises(SettingsError, match=r"is no model; a function in it is .*mine.py:NAME"):
        RewardSettings.named(str(file))
    file.write_text("import nonsense_that_is_nowhere\n")
    with pytest.raises(SettingsError, match="cannot be imported: ModuleNotFoundError"):
        load_function(f"{file}:f")
