"""T: vocabulary and embedding, control strings, round trips. Cases are those of the knowledge page."""

from __future__ import annotations

import json
from pathlib import Path

from chat_families import CHATML, QWEN, byte_level, chatml_folder, finding, put, trl_template
from holdtrue.doctor.checks.vocabulary import masks, ranges
from holdtrue.doctor.subject import Subject

# case 5, the static half


def test_rows_without_tokens_are_phantom_ids_with_ready_masks(tmp_path: Path):
    tokens = (*QWEN, *(f"<|reserved_{i}|>" for i in range(192)))  # 195 + 256 bytes = 451 tokens
    byte_level(tokens, eos_token="<|im_end|>", pad_token="<|endoftext|>").save_pretrained(tmp_path)
    put(tmp_path, "config.json", {"vocab_size": 512})
    seen = finding(Subject(tmp_path), "T04")
    assert seen.severity == "warn"
    assert "61 phantom ids [451, 512)" in seen.evidence
    assert seen.values["masks"]["transformers"]["suppress_tokens"] == list(range(451, 512))
    assert seen.values["masks"]["vllm"]["logit_bias"]["511"] == -100.0
    assert len(seen.values["masks"]["sglang"]["logit_bias"]) == 61


def test_tokens_without_rows_fail(tmp_path: Path):
    folder = chatml_folder(tmp_path)  # 259 tokens
    put(folder, "config.json", {"text_config": {"vocab_size": 257}})
    seen = finding(Subject(folder), "T04")
    assert seen.severity == "fail"
    assert "2 tokens have no row: ids [257, 259)" in seen.evidence


def test_as_many_rows_as_tokens_are_fine(tmp_path: Path):
    put(chatml_folder(tmp_path), "config.json", {"vocab_size": 259})
    assert finding(Subject(tmp_path), "T04").severity == "ok"


def test_ranges_are_half_open_and_few():
    assert ranges([3, 4, 5, 9]) == "[3, 6), [9, 10)"
    assert ranges([1, 3, 5, 7, 9]) == "[1, 2), [3, 4), [5, 6) and 2 more ranges"
    assert masks([]) == {
        "vllm": {"logit_bias": {}},
        "sglang": {"logit_bias": {}},
        "transformers": {"suppress_tokens": []},
    }


def test_a_control_string_that_is_no_token_is_spelt_out(tmp_path: Path):
    template = CHATML.replace("<|im_end|>", "<|end|>")
    seen = finding(Subject(chatml_folder(tmp_path, chat_template=template)), "T05")
    assert seen.severity == "fail"
    assert "<|end|> becomes 7 tokens" in seen.evidence  # a token per byte


def test_tool_tags_of_several_tokens_matter_only_where_tools_are_used(tmp_path: Path):
    folder = chatml_folder(tmp_path, chat_template=trl_template("qwen2_5"))
    assert finding(Subject(folder), "T05").severity == "ok"
    seen = finding(Subject(folder, asked=frozenset({"tools"})), "T05")
    assert seen.severity == "warn"
    assert "<tool_call>" in seen.evidence


def test_two_templates_that_differ_fail(tmp_path: Path):
    folder = chatml_folder(tmp_path)
    assert finding(Subject(folder), "T07").severity == "ok"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    put(folder, "tokenizer_config.json", config | {"chat_template": "another"})
    seen = finding(Subject(folder), "T07")
    assert seen.severity == "fail"
    assert "tokenizer_config.json and chat_template.jinja" in seen.evidence


def test_a_normaliser_that_changes_texts_is_told(tmp_path: Path):
    from tokenizers import normalizers

    tokenizer = byte_level(QWEN, eos_token="<|im_end|>")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained(tmp_path)
    seen = finding(Subject(tmp_path), "T07")
    assert seen.severity == "warn"
    assert seen.evidence.startswith("3 of 3 texts change")  # each has a capital
