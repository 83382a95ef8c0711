"""Which answers of an optimisation are shown and examined."""

from __future__ import annotations

from pathlib import Path

from holdtrue.records import Message
from holdtrue.report import answers
from holdtrue.report.answers import Place
from holdtrue.rundir import append_jsonl


def at(step: int, prompt: str = "p", reward: float | None = 0.0, line: int = 1) -> Place:
    return Place(line, 0, step, prompt, reward)


def test_an_answer_is_read_again_from_its_place(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    chat = [{"role": "user", "content": "Wie heißt du?"}]
    append_jsonl(file, [{"step": 0, "prompt": "é", "answer": "a", "reward": 1.5}])
    append_jsonl(
        file, [{"step": 3, "prompt": chat, "answer": "b", "reward": None, "reward_parts": {"x": 1.0}}]
    )
    (first, second), broken = answers.find(file)
    assert not broken
    assert (first.line, first.offset, first.step, first.reward) == (1, 0, 0, 1.5)
    assert (second.line, second.step, second.reward) == (2, 3, None)
    (found,) = answers.read(file, [second])
    assert (found.prompt, found.answer, found.step) == ((Message("user", "Wie heißt du?"),), "b", 3)


def test_a_run_without_answers_has_no_places_and_broken_lines_are_numbered(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    assert answers.find(file) == ([], [])
    whole = b'{"step": %d, "prompt": "p", "answer": "a"}\n'
    file.write_bytes(b'{"step": 0\n' + whole % 1 + b"\xff\x00\n[1]\n" + whole % 2)
    places, broken = answers.find(file)
    assert [(place.line, place.step) for place in places] == [(2, 1), (5, 2)] and broken == [1, 3, 4]
    assert [rollout.step for rollout in answers.read(file, places)] == [1, 2]


def test_objects_that_are_no_answers_are_numbered_too(tmp_path: Path) -> None:
    file, good = tmp_path / "rollouts.jsonl", {"step": 1, "prompt": "p", "answer": "a", "reward": 1}
    bad = [
        {"a": 1},
        good | {"step": "x"},
        good | {"reward": "x"},
        good | {"prompt": None},
        good | {"answer": [{"role": "user"}]},
    ]
    append_jsonl(file, [good, *bad, good | {"reward": None}])
    places, broken = answers.find(file)
    assert [place.line for place in places] == [1, 7] and broken == [2, 3, 4, 5, 6]
    assert len(answers.read(file, places)) == 2


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    file.write_text('{"step": 0, "prompt": "p", "answer": "a"}\n{"step": 1, "pro')
    places, broken = answers.find(file)
    assert [place.step for place in places] == [0] and not broken


def test_steps_are_sampled_evenly_from_the_first_to_the_last_up_to_a_thousand_answers() -> None:
    places = [at(step) for step in range(101) for _ in range(100)]
    chosen = answers.sample(places)
    assert len(chosen) == 1000
    # 1000 / 100 answers a step are 10 steps: 0, 100/9, ... rounded
    assert sorted({place.step for place in chosen}) == [0, 11, 22, 33, 44, 56, 67, 78, 89, 100]
    assert answers.sample(places[:300]) == places[:300]
    assert len(answers.sample([at(0)] * 5000)) == 1000


def test_a_prompt_is_shown_where_it_was_answered_nearest_to_the_steps_asked_for() -> None:
    often = [at(step, "often", line=step) for step in (0, 4, 9, 10)]
    twice = [at(10, "often", line=99), at(0, "rare"), at(5, "rare")]
    first, second = answers.along([*often, *twice], {"start": 0, "middle": 5, "end": 10}, 2)
    assert [(names, place.step) for names, place in first] == [(["start"], 0), (["middle"], 4), (["end"], 10)]
    assert first[2][1].line == 10  # the first answer of the step
    # 5 is nearest to the middle and to the end
    assert [(names, place.step) for names, place in second] == [(["start"], 0), (["middle", "end"], 5)]
    assert len(answers.along([*often, *twice], {"start": 0}, 1)) == 1


def test_the_highest_rewards_are_of_different_prompts_and_those_without_one_are_left_out() -> None:
    places = [at(1, "a", 1.0), at(1, "a", 3.0), at(1, "b", 2.0), at(1, "c", None), at(1, "d", 0.5)]
    assert [(one.prompt, one.reward) for one in answers.highest(places, 2)] == [("a", 3.0), ("b", 2.0)]


def test_answers_to_one_prompt_count_as_one() -> None:
    places = [at(1, "a", 1.0), at(2, "a", 3.0), at(1, "b", 5.0), at(1, "c", None)]
    assert answers.mean_rewards(places) == [2.0, 5.0]
