"""D: how answers are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from chat_families import CHATML, QWEN, byte_level, chat_folder, chatml_folder, finding, put
from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine
from holdtrue.doctor.findings import Missing
from holdtrue.doctor.subject import Subject
from holdtrue.errors import HoldtrueError


def test_greedy_decoding_warns_only_for_models_that_think(tmp_path: Path):
    plain, thinks = chatml_folder(tmp_path / "plain"), chat_folder(tmp_path / "thinks", "Qwen3")
    assert finding(Subject(plain, settings={"temperature": 0.0}), "D01").severity == "ok"
    seen = finding(Subject(thinks, settings={"temperature": 0.0}), "D01")
    assert seen.severity == "warn"
    assert finding(Subject(thinks, settings={"temperature": 0.6}), "D01").severity == "ok"
    put(thinks, "generation_config.json", {"do_sample": False})
    put(thinks, "config.json", {"model_type": "qwen3"})
    assert finding(Subject(thinks), "D01").fix == "sample with temperature 0.6, top_p 0.95, top_k 20"


@pytest.mark.parametrize(
    ("settings", "severity"),
    [
        ({"repetition_penalty": 1.05}, "warn"),
        ({"repetition_penalty": 1.0}, "ok"),
        ({"generation_kwargs": {"presence_penalty": 0.3}}, "warn"),
        ({}, "ok"),
    ],
)
def test_penalties_in_rollouts_warn(tmp_path: Path, settings: dict[str, Any], severity: str):
    assert finding(Subject(chatml_folder(tmp_path), settings=settings), "D02").severity == severity


def test_sampling_of_generation_config_that_nobody_named_warns(tmp_path: Path):
    folder = chatml_folder(tmp_path)
    with pytest.raises(Missing):
        finding(Subject(folder), "D03")
    put(folder, "generation_config.json", {"repetition_penalty": 1.05, "top_p": 0.8, "temperature": 1.0})
    seen = finding(Subject(folder, settings={"top_p": 1.0}), "D03")
    assert seen.severity == "warn"
    assert seen.values["silent"] == {"repetition_penalty": 1.05}
    named = {"top_p": 1.0, "repetition_penalty": 1.0}
    assert finding(Subject(folder, settings=named), "D03").severity == "ok"


def test_control_ids_that_no_answer_holds_are_listed_with_masks(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen2.5")
    put(folder, "config.json", {"model_type": "qwen2"})
    seen = finding(Subject(folder), "D04")
    assert seen.severity == "warn"
    # 0 <|endoftext|> and 2 <|im_end|> end answers of the family, 4 and 5 are tags of tool calls
    assert seen.values["ids"] == [1, 3]
    assert "1 of images and video" in seen.evidence
    banned = {"generation_kwargs": {"bad_words_ids": [[1]]}, "logit_bias": {"3": -100}}
    assert finding(Subject(folder, settings=banned), "D04").severity == "ok"
    put(folder, "generation_config.json", {"suppress_tokens": [1, 3]})
    assert finding(Subject(folder), "D04").severity == "ok"


def test_control_tokens_that_the_template_writes_in_answers_are_not_to_be_banned(tmp_path: Path):
    ids = finding(Subject(chat_folder(tmp_path, "Llama-3.1")), "D04").values["ids"]
    assert ids == [0, 2, 3, 6]  # begin_of_text, two of headers, python_tag; never the ends 1, 4, 5


def test_a_cap_below_the_reference_answers_warns_with_their_p95(tmp_path: Path):
    folder = chatml_folder(tmp_path)
    rows = [
        Example(({"role": "user", "content": "?"}, {"role": "assistant", "content": "x" * n}), f"a:{n}")
        for n in range(1, 101)
    ]
    # 1 to 100 bytes, a token each: 95 of 100 have up to 95; 50 reach a cap of 51
    seen = finding(Subject(folder, settings={"max_completion_length": 51}, examples=rows), "D05")
    assert seen.severity == "warn"
    assert seen.values == {
        "cap": 51,
        "p95": 95,
        "cut": 0.5,
        "fix": {"settings": {"max_completion_length": 190}},
    }
    assert (
        finding(Subject(folder, settings={"max_completion_length": 97}, examples=rows), "D05").severity
        == "ok"
    )


@pytest.mark.parametrize(
    ("id", "settings", "severity"),
    [
        ("D06", {"enable_prefix_caching": True}, "warn"),
        ("D06", {"vllm_enable_prefix_caching": False}, "ok"),
        ("D07", {"logprobs_mode": "raw_logprobs", "temperature": 0.7}, "warn"),
        ("D07", {"logprobs_mode": "raw_logprobs", "temperature": 1.0}, "ok"),
        ("D07", {"logprobs_mode": "processed_logprobs", "temperature": 0.7}, "ok"),
    ],
)
def test_engine_settings(tmp_path: Path, id: str, settings: dict[str, Any], severity: str):
    assert finding(Subject(tmp_path, settings=settings), id).severity == severity


@pytest.mark.parametrize("id", ["D02", "D05", "D06", "D07"])
def test_without_settings_they_are_skipped(tmp_path: Path, id: str):
    with pytest.raises(Missing):
        finding(Subject(chatml_folder(tmp_path)), id)


@pytest.mark.parametrize("value", ["x", None, [], {}, True, float("nan")])
def test_settings_of_a_wrong_type_do_not_end_a_check(tmp_path: Path, value: Any):
    folder = chatml_folder(tmp_path)
    settings = dict.fromkeys(("temperature", "repetition_penalty", "generation_kwargs", "logit_bias"), value)
    put(folder, "generation_config.json", {"suppress_tokens": "x", "temperature": "hot"})
    for id in ("D01", "D02", "D03", "D04"):
        assert finding(Subject(folder, settings=settings), id)


KEYS = (
    *(
        "temperature",
        "top_p",
        "top_k",
        "repetition_penalty",
        "suppress_tokens",
        "bad_words_ids",
        "logit_bias",
    ),
    *(
        "eos_token_id",
        "vocab_size",
        "text_config",
        "model_type",
        "generation_kwargs",
        "max_completion_length",
    ),
    *("logprobs_mode", "enable_prefix_caching", "padding_side", "tools", "chat_template_kwargs", "do_sample"),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level(QWEN, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML)


@runs(max_examples=60, deadline=None)
@given(config=OBJECTS, generation_config=OBJECTS, settings=OBJECTS)
def test_any_config_is_a_diagnosis_or_one_line(
    tokenizer: Any, config: Any, generation_config: Any, settings: Any
):
    subject = Subject(Path("nowhere"), settings=settings)
    vars(subject).update(tokenizer=tokenizer, config=config, generation_config=generation_config)  # as read
    try:
        said = json.dumps(examine(subject).as_json(), allow_nan=False)
    except HoldtrueError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
