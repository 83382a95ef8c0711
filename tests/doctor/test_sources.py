"""Rollouts of every engine's files, as they are written, become the same rollouts."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.doctor.sources import Dump, read_rollouts
from holdtrue.errors import DataError
from holdtrue.records import Message

USER = (Message("user", "2 + 2?"),)


def read(folder: Path, *rows: Any, name: str = "rollouts.jsonl") -> Dump:
    file = folder / name
    file.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8"
    )
    return read_rollouts([str(file)])


def test_holdtrues_own_rows_keep_every_field(tmp_path):
    row = {
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "answer": "4",
        "completion_ids": [7, 8],
        "loss_mask": [1, 1],
        "logprobs": [-0.5, None],
        "trained_logprobs": [-0.4, -0.1],
        "reward": 1,
        "advantage": [0.5, 0.5],
        "finish": "length",
        "step": 3,
        "policy": "current",
        "topic": "sums",
    }
    rollout = read(tmp_path, row).rollouts[0]
    assert (rollout.prompt, rollout.answer, rollout.completion_ids) == (USER, "4", [7, 8])
    assert rollout.logprobs is not None and math.isnan(rollout.logprobs[1])
    assert (rollout.reward, rollout.advantage, rollout.finish) == (1.0, [0.5, 0.5], "length")
    assert (rollout.step, rollout.policy, rollout.meta["topic"]) == (3, "current", "sums")
    assert str(rollout.source).endswith("rollouts.jsonl:1")


def test_trl_parquet_gives_the_sum_of_its_rewards(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {
        "step": [5, 5],
        "prompt": [[{"role": "user", "content": "2 + 2?"}]] * 2,
        "completion": [[{"role": "assistant", "content": "4"}], [{"role": "assistant", "content": "5"}]],
        "accuracy_reward": [1.0, 0.0],
        "format_reward": [0.5, 0.5],
        "advantage": [0.7, -0.7],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "completions_00005.parquet")
    first, second = read_rollouts([str(tmp_path)]).rollouts
    assert (first.prompt, first.text, first.reward, first.advantage, first.step) == (USER, "4", 1.5, 0.7, 5)
    assert (second.text, second.reward) == ("5", 0.5)


def test_verl_and_openrlhf_rows(tmp_path):
    verl = {"input": "2 + 2?", "output": "4<|im_end|>", "gts": "4", "score": 1.0, "step": 2, "acc": True}
    rollout = read(tmp_path, verl).rollouts[0]
    assert (rollout.prompt, rollout.text, rollout.reward, rollout.step) == ("2 + 2?", "4<|im_end|>", 1.0, 2)
    assert rollout.meta["gts"] == "4"


def test_ms_swift_rows_hold_a_batch_each(tmp_path):
    batch = {"prompt": ["a?", "b?"], "completion": ["1", "2"], "reward": [0.1, 0.2], "global_step": 4}
    first, second = read(tmp_path, batch).rollouts
    assert [(r.prompt, r.text, r.reward, r.step) for r in (first, second)] == [
        ("a?", "1", 0.1, 4),
        ("b?", "2", 0.2, 4),
    ]


def test_several_answers_of_several_policies(tmp_path):
    row = {"prompt": "a?", "completions": ["1", "2"], "policies": ["sft", "ppo"]}
    assert [(r.text, r.policy) for r in read(tmp_path, row).rollouts] == [("1", "sft"), ("2", "ppo")]


def test_vllm_outputs_carry_ids_and_reasons(tmp_path):
    outputs = [
        {"text": "4", "token_ids": [19, 2], "finish_reason": "stop"},
        {"text": "4 4", "finish_reason": "length"},
    ]
    first, second = read(tmp_path, {"prompt": "2 + 2?", "outputs": outputs}).rollouts
    assert (first.text, first.completion_ids, first.finish, first.prompt) == ("4", [19, 2], "stop", "2 + 2?")
    assert (second.finish, second.completion_ids) == ("length", None)


@pytest.mark.parametrize("wrap", ["log", "batch", "bare"])
def test_openai_responses(tmp_path, wrap):
    choice = {
        "message": {
            "role": "assistant",
            "reasoning_content": "hm",
            "content": None,
            "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}],
        },
        "finish_reason": "length",
        "logprobs": {"content": [{"token": "a", "logprob": -0.25}]},
    }
    asked = {"model": "m", "messages": [{"role": "user", "content": "2 + 2?"}]}
    row = {
        "log": {"request": asked, "response": {"choices": [choice]}},
        "batch": {"custom_id": "1", "request": {"body": asked}, "response": {"body": {"choices": [choice]}}},
        "bare": {**asked, "choices": [choice]},
    }[wrap]
    rollout = read(tmp_path, row).rollouts[0]
    assert rollout.prompt == USER
    assert (
        rollout.text == '<think>\nhm\n</think>\n<tool_call>\n{"name": "add", "arguments": "{}"}\n</tool_call>'
    )
    assert (rollout.finish, rollout.logprobs) == ("length", [-0.25])


def test_a_conversation_is_cut_after_the_last_user_turn(tmp_path):
    turns = [("system", "s"), ("user", "2 + 2?"), ("assistant", "look"), ("tool", "4"), ("assistant", "4")]
    rollout = read(tmp_path, {"messages": [{"role": r, "content": c} for r, c in turns]}).rollouts[0]
    assert [message.role for message in rollout.prompt if isinstance(message, Message)] == ["system", "user"]
    assert rollout.text == "look\n\n4\n\n4"


def test_what_was_written_is_read_and_not_the_right_answer(tmp_path):
    rows = read(tmp_path, {"question": "2 + 2?", "answer": "4", "response": "5"}).rollouts
    assert [(r.prompt, r.text) for r in rows] == [("2 + 2?", "5")]
    alpaca = read(tmp_path, {"instruction": "Add.", "input": "2, 2", "output": "4"}).rollouts[0]
    assert (alpaca.prompt, alpaca.text) == ("Add.\n\n2, 2", "4")


def test_a_conversation_and_the_ids_of_one_answer_are_never_split(tmp_path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    both = read(tmp_path, {"prompt": turns, "completions": ["1", "2"]}).rollouts
    assert [len(rollout.prompt) for rollout in both] == [2, 2]
    one = read(tmp_path, {"prompt": ["a?"], "completions": ["1"], "completion_ids": [7]}).rollouts[0]
    assert (one.prompt, one.text, one.completion_ids) == ("a?", "1", [7])


def test_as_many_tools_as_answers_are_the_tools_of_each(tmp_path):
    tools = [{"name": "get"}, {"name": "put"}]
    both = read(tmp_path, {"prompt": "a?", "completions": ["1", "2"], "tools": tools}).rollouts
    assert [rollout.meta["tools"] for rollout in both] == [tools, tools]
    batch = {"prompt": ["a?", "b?"], "completion": ["1", "2"], "tools": [tools, tools[:1]]}
    assert [one.meta["tools"] for one in read(tmp_path, batch).rollouts] == [tools, tools[:1]]


def test_numbers_that_are_none_are_read_as_python_writes_them(tmp_path):
    row = '{"prompt": "?", "completion": "!", "logprobs": [NaN, -Infinity, -1.0], "reward": NaN}'
    rollout = read(tmp_path, row).rollouts[0]
    assert rollout.logprobs is not None and len(rollout.logprobs) == 3 and math.isnan(rollout.logprobs[0])
    assert rollout.reward is None
    huge = read(
        tmp_path, '{"prompt": "?", "completion": "!"}', f'{{"completion": "x", "reward": {"9" * 400}}}'
    )
    assert (len(huge.rollouts), huge.unreadable.total()) == (1, 1)


def test_rows_of_ids_alone_are_rollouts(tmp_path):
    assert read(tmp_path, {"response_ids": [1, 2, 3]}).rollouts[0].completion_ids == [1, 2, 3]


def test_what_cannot_be_read_is_counted_and_keeps_its_index(tmp_path):
    dump = read(
        tmp_path,
        {"prompt": "a", "completion": "1"},
        "{broken",
        {"other": 1},
        {"prompt": "a", "completion": "2"},
    )
    assert dump.indices == [0, 3]
    assert dump.count == 4
    assert sum(dump.unreadable.values()) == 2
    assert any(":3" in place and "columns are other" in place for place in dump.examples["no answer"])


def test_a_run_directory_and_gzip_and_folders(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rollouts.jsonl").write_text('{"prompt": "a", "answer": "1"}\n')
    (tmp_path / "run" / "metrics.jsonl").write_text('{"loss": 1}\n')
    assert len(read_rollouts([str(tmp_path / "run")]).rollouts) == 1
    (tmp_path / "dump.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a", "completion": "1"}\n'))
    assert len(read_rollouts([str(tmp_path / "dump.jsonl.gz")]).rollouts) == 1


def test_a_run_without_rollouts_is_an_error_that_says_which_runs_have_them(tmp_path):
    run = tmp_path / "run"
    (run / "round-1" / "rl").mkdir(parents=True)
    (run / "settings.yaml").write_text("task: sft\n")
    (run / "run.json").write_text('{"holdtrue": "0.1.0"}')
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.3, "tokens": 382}\n')
    with pytest.raises(
        DataError, match=r"run of holdtrue sft without rollouts.*runs of holdtrue rl have one"
    ):
        read_rollouts([str(run)])
    (run / "round-1" / "rl" / "rollouts.jsonl").write_text('{"prompt": "a", "answer": "1"}\n')
    with pytest.raises(DataError, match=f"give the runs in it: {run / 'round-1' / 'rl'}$"):
        read_rollouts([str(run)])


def test_in_a_folder_what_belongs_to_models_is_passed_over(tmp_path):
    state = {"text": "not said by a policy"}
    for place in ("checkpoints/step-1/state.json", "model/vocab.json", "tokenizer_config.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(json.dumps(state))
    with pytest.raises(DataError, match="files of models alone"):
        read_rollouts([str(tmp_path)])
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "1.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    dump = read_rollouts([str(tmp_path)])
    assert [one.text for one in dump.rollouts] == ["b"] and not dump.unreadable


@pytest.mark.parametrize("text", ["", "[]", '{"loss": 1}', "not json", '{"step": 1, "tokens": 382}'])
def test_a_file_without_rollouts_is_an_error_of_one_line(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match="no rollouts") as error:
        read_rollouts([str(tmp_path / "a.jsonl")])
    assert "\n" not in str(error.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = [
    "prompt",
    "completion",
    "completions",
    "answer",
    "output",
    "outputs",
    "response",
    "choices",
    "messages",
]
COLUMNS += ["request", "reward", "advantage", "completion_ids", "loss_mask", "logprobs", "trained_logprobs"]
COLUMNS += ["finish", "truncated", "step", "policy", "role", "content", "policies"]
columns = st.sampled_from(COLUMNS)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.dictionaries(columns, values, max_size=6), min_size=1, max_size=4))
def test_no_row_can_bring_the_reader_or_the_detectors_down(rows, tmp_path_factory):
    from holdtrue.doctor.rollouts import examine

    file = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    try:
        dump = read_rollouts([str(file)])
    except DataError:
        return
    assert len(dump.rollouts) + sum(dump.unreadable.values()) == dump.count
    json.dumps(examine(dump.rollouts, indices=dump.indices).as_json())
