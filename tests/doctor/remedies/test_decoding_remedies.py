"""Remedies for decoding: what each engine is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from holdtrue.doctor.remedies import OWN, Context
from holdtrue.doctor.remedies.all_ends import AllEnds
from holdtrue.doctor.remedies.ban_control import BanControl
from holdtrue.doctor.remedies.early_abort import EarlyAbort
from holdtrue.doctor.remedies.serving_penalty import ServingPenalty
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.errors import SettingsError

CONTROL = {10: "<|im_start|>", 11: "<|im_end|>", 12: "<|image_pad|>"}
VOCABULARY = Vocabulary(13, CONTROL, frozenset({9, 11}), lambda ids: "", width=16)


def test_answers_end_at_every_declared_end():
    ends = AllEnds()
    assert ends.parameters("vllm", VOCABULARY) == {"stop_token_ids": [9, 11]}
    assert ends.parameters("sglang", VOCABULARY) == {"stop_token_ids": [9, 11]}
    assert ends.parameters("transformers", VOCABULARY) == {"eos_token_id": [9, 11]}


def test_stop_strings_stay_in_the_answer():
    given = AllEnds(strings=("</tool_call>",)).parameters("vllm", VOCABULARY)
    assert given["stop"] == ["</tool_call>"] and given["include_stop_str_in_output"] is True


def test_control_multimodal_and_phantom_ids_are_banned_and_ends_are_not():
    banned = [10, 12, 13, 14, 15]
    bias = {"10": -100.0, "12": -100.0, "13": -100.0, "14": -100.0, "15": -100.0}
    assert BanControl().parameters("transformers", VOCABULARY) == {"suppress_tokens": banned}
    assert BanControl().parameters("vllm", VOCABULARY) == {"logit_bias": bias}
    assert BanControl().parameters("sglang", VOCABULARY) == {"logit_bias": bias}


def test_an_end_is_never_banned():
    sick = BanControl(also=(11, 3))
    assert sick.refuses(Context(vocabulary=VOCABULARY)) == (
        "11 <|im_end|> end answers: with them banned none could end"
    )
    with pytest.raises(SettingsError, match="ids 11 end answers"):
        sick.parameters("vllm", VOCABULARY)


def test_without_a_vocabulary_nothing_is_known_of_ids():
    assert "not known without the tokenizer" in (BanControl().refuses(Context()) or "")
    for remedy in (BanControl(), AllEnds()):
        with pytest.raises(SettingsError, match="give the folder of"):
            remedy.parameters("vllm")


def test_log_probabilities_are_renormalised_over_what_may_be_drawn():
    # e^0 : e^0 : e^0 with one banned is a half each
    log_p = BanControl.log_softmax([[0.0, 0.0, 0.0], [0.0, 5.0, np.log(3)]], [1])
    assert np.exp(log_p) == pytest.approx(np.array([[0.5, 0.0, 0.5], [0.25, 0.0, 0.75]]))


def test_the_ban_of_a_real_family_spares_its_ends(shared: Callable[[str], Path], tmp_path: Path):
    source = shared("data/tokenizers/qwen2.5-instruct")
    for file in source.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "vocab_size": 152064}')
    vocabulary = Vocabulary.of(tmp_path)
    banned = BanControl().banned(vocabulary)
    assert {151644, 151652, 151655, 151656} <= set(banned)  # im_start, vision_start, image_pad, video_pad
    assert not {151643, 151645, 151657} & set(banned)  # endoftext, im_end, <tool_call>
    assert banned[-1] == 152063 and len([id for id in banned if id >= 151665]) == 399


def test_vllm_stops_loops_by_its_own_names():
    given = EarlyAbort().parameters("vllm")
    assert given == {
        "repetition_detection": {"max_pattern_size": 256, "min_pattern_size": 24, "min_count": 4}
    }


def test_the_cover_of_a_loop_is_below_the_limit_that_answers_have():
    def cover(limit: int | None, **settings: int) -> int:
        return EarlyAbort(**settings).fitted(Context(limit=limit)).parameters(OWN)["decoding.loop.min_cover"]

    assert (cover(40), cover(95)) == (30, 71)
    assert (cover(96), cover(4096), cover(None), cover(40, min_cover=96)) == (96, 96, 96, 96)
    assert EarlyAbort(min_count=5).fitted(Context(limit=40)).min_count == 5


@pytest.mark.parametrize("engine", ["sglang", "transformers"])
def test_engines_that_cannot_stop_loops_say_so(engine: str):
    with pytest.raises(SettingsError, match=f"early_abort: unknown engine with a setting for it '{engine}'"):
        EarlyAbort().parameters(engine)


def test_patterns_have_a_shortest_and_a_longest():
    with pytest.raises(SettingsError, match="min_pattern_size 300, max_pattern_size 256"):
        EarlyAbort(min_pattern_size=300).parameters("vllm")


def test_penalties_are_for_serving_alone():
    penalty = ServingPenalty(presence=1.5)
    assert penalty.parameters("vllm") == {"repetition_penalty": 1.05, "presence_penalty": 1.5}
    assert penalty.parameters("transformers") == {"repetition_penalty": 1.05}
    assert "log-probabilities are biased" in (penalty.refuses(Context(stage="rl")) or "")
    assert "draws no answers" in (penalty.refuses(Context(stage="sft")) or "")
    assert penalty.refuses(Context(stage="serving")) is None
