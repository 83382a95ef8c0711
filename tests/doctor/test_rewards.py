"""Any reward is called by the names of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.doctor.rewards import Case, RewardFault, ask, from_function, from_name
from holdtrue.errors import SettingsError
from holdtrue.records import Message

CASES = [
    Case("2 + 2?", "4", "a:1", {"ground_truth": "4", "data_source": "sums"}),
    Case("3 + 3?", "7 ", "a:2", {"ground_truth": "6", "data_source": "sums"}),
]


def given(function: Any, cases: list[Case] = CASES) -> list[float]:
    values: list[float] = ask(from_function(function), cases, 5.0).tolist()
    return values


def test_trl_gets_lists_of_prompts_completions_and_columns() -> None:
    def reward(prompts: Any, completions: Any, ground_truth: Any, log_metric: Any, **kwargs: Any) -> Any:
        log_metric("seen", 1.0)
        assert prompts == ["2 + 2?", "3 + 3?"] and kwargs["data_source"] == ["sums", "sums"]
        return [c == g for c, g in zip(completions, ground_truth, strict=True)]

    assert given(reward) == [1.0, 0.0]


def test_trl_gets_messages_when_the_prompts_are_messages() -> None:
    def reward(prompts: Any, completions: Any) -> Any:
        assert prompts[0] == [{"role": "user", "content": "2 + 2?"}]
        return [len(turns[-1]["content"]) for turns in completions]

    assert given(reward, [case.as_chat() for case in CASES]) == [1.0, 2.0]


def test_a_function_of_a_policy_optimisation_is_called_as_that_calls_it() -> None:
    def reward(prompts: Any, texts: Any, completion_ids: Any) -> Any:
        assert prompts[0] == CASES[0].prompt and list(completion_ids) == [(), ()]
        return [float(len(text)) for text in texts]

    assert given(reward) == [1.0, 2.0]


def test_an_async_function_is_awaited() -> None:
    async def reward(completions: Any, **_: Any) -> Any:
        return [1.0 for _ in completions]

    assert given(reward) == [1.0, 1.0]


def test_verl_is_called_answer_by_answer_and_may_give_a_dict() -> None:
    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> Any:
        assert data_source == "sums"
        return {"score": float(solution_str == ground_truth), "format": 1}

    assert given(compute_score) == [1.0, 0.0]
    nested = [Case("?", "4", "a:1", {"reward_model": {"ground_truth": "4"}, "data_source": "sums"})]
    assert given(compute_score, nested) == [1.0]


def test_openrlhf_gets_prompt_and_answer_as_one_text() -> None:
    torch = pytest.importorskip("torch")

    def reward_func(queries: Any, prompts: Any, labels: Any) -> Any:
        assert queries[0] == "2 + 2?4" and labels == ["4", "6"]
        return {"rewards": torch.tensor([1.0, 0.5])}

    assert given(reward_func) == [1.0, 0.5]


def test_simple_functions_get_the_answer_or_the_prompt_and_the_answer() -> None:
    assert given(len) == [1.0, 2.0]
    assert given(lambda text, scale=2: scale * len(text)) == [2.0, 4.0]
    assert given(lambda prompt, completion: len(prompt) - len(completion)) == [5.0, 4.0]


def test_an_answers_last_turn_is_what_changes() -> None:
    turns = (Message("assistant", "look"), Message("tool", "ok"), Message("assistant", "4"))
    case = Case((Message("user", "?"),), turns, "a:1").saying("5")
    assert [turn.content for turn in case.answer] == ["look", "ok", "5"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda completions, solution: [], "needs 'solution', which the rows lack"),
        (lambda completions, completion_ids: [], "has no token ids"),
        (lambda a, b, c: 0.0, "of no known form"),
        (
            lambda prompts, texts: [0.0],
            r"reads texts, so it is called with \(prompts, texts, completion_ids\)",
        ),
        (dict, "name a function"),
        (3, "name a function"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(function: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        given(function)


@pytest.mark.parametrize("value", ["0.5", [0.5, 1.0], {"a": 1}, b"1"])
def test_what_is_no_number_is_a_fault(value: Any) -> None:
    with pytest.raises(RewardFault, match="not a number"):
        given(lambda text: value)


def test_a_reward_that_catches_everything_is_stopped_all_the_same() -> None:
    def stubborn(text: str) -> float:
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    with pytest.raises(RewardFault, match=r"within 0\.1 s"):
        ask(from_function(stubborn), CASES, 0.1)


def test_a_function_is_found_in_a_file_and_in_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "audited_rewards.py"
    file.write_text("import math\nimport helper_of_it\ndef count(text):\n    return len(text)\n")
    (tmp_path / "helper_of_it.py").write_text("")
    assert ask(from_name(f"{file}:count"), CASES, 5.0).tolist() == [1.0, 2.0]
    monkeypatch.chdir(tmp_path)
    assert ask(from_name("audited_rewards:count"), CASES, 5.0).tolist() == [1.0, 2.0]
    with pytest.raises(SettingsError, match="did you mean 'count'"):
        from_name(f"{file}:counts")


@pytest.mark.parametrize(
    ("text", "said"),
    [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("raise SystemExit(3)", "SystemExit")],
)
def test_a_file_that_cannot_be_imported_is_an_error_of_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "broken_reward.py").write_text(text)
    with pytest.raises(SettingsError, match=said):
        from_name(f"{tmp_path / 'broken_reward.py'}:f")
    with pytest.raises(SettingsError, match="there is no file"):
        from_name(f"{tmp_path / 'nowhere.py'}:f")


@pytest.mark.parametrize("make", [lambda value: value, lambda value: (value,)])
def test_lists_and_tuples_are_both_rewards(make: Callable[[Any], Any]) -> None:
    assert given(lambda completions: list(make((0.0, 1.0))) if make(1) == 1 else (0.0, 1.0)) == [0.0, 1.0]
