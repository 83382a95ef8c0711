"""T: EOS sets, padding and BOS. Cases are those of the knowledge page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chat_families import CHATML, byte_level, chat_folder, chatml_folder, finding, put
from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine
from holdtrue.doctor.subject import Subject
from holdtrue.errors import DataError, ModelError


def conversations(count: int) -> list[Example]:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    return [Example(tuple(turns), f"rows.jsonl:{i + 1}") for i in range(count)]


# case 1


def test_pad_that_is_eos_fails_when_no_label_holds_the_end(tmp_path: Path):
    folder = chatml_folder(tmp_path, pad_token="<|im_end|>")
    seen = finding(Subject(folder, examples=conversations(200)), "T02")
    assert seen.severity == "fail"
    assert seen.evidence.startswith("0/200 examples train EOS")
    assert seen.values["fix"] == {"tokenizer_config.json": {"pad_token": "<|endoftext|>"}}
    assert "0/3 dummy conversations train EOS" in finding(Subject(folder), "T02").evidence


def test_the_fix_of_pad_that_is_eos_passes(tmp_path: Path):
    seen = finding(Subject(chatml_folder(tmp_path), examples=conversations(200)), "T02")
    assert seen.severity == "ok"
    assert "200/200 examples train EOS" in seen.evidence


def test_pad_that_is_one_of_several_ends_warns_while_another_is_trained(tmp_path: Path):
    template = CHATML.replace("{% if add", "<|endoftext|>{% if add")  # as Phi-3: im_end, then EOS
    folder = chatml_folder(tmp_path, eos_token="<|endoftext|>", chat_template=template)
    seen = finding(Subject(folder), "T02")
    assert seen.severity == "warn"
    assert "3/3" in seen.evidence


def test_no_pad_at_all_warns_and_says_what_eos_in_its_place_would_do(tmp_path: Path):
    seen = finding(Subject(chatml_folder(tmp_path, pad_token=None)), "T02")
    assert seen.severity == "warn"
    assert "0/3 dummy conversations" in seen.why


# cases 2, 4, 14


def test_chatml_on_a_base_tokenizer_ends_with_a_token_nothing_stops_at(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen2.5", eos="<|endoftext|>")
    put(folder, "generation_config.json", {"eos_token_id": 0})
    seen = finding(Subject(folder), "T01")
    assert seen.severity == "fail"
    assert "the template ends 2 ∉ {0}" in seen.why
    assert seen.values["fix"] == {
        "generation_config.json": {"eos_token_id": [0, 2]},
        "tokenizer_config.json": {"eos_token": "<|im_end|>"},
    }
    put(folder, "generation_config.json", {"eos_token_id": [0, 2]})
    assert finding(Subject(folder), "T01").severity == "warn"  # the tokenizer's EOS alone is still another


def test_llama_3_base_ends_turns_with_eot_id(tmp_path: Path):
    seen = finding(Subject(chat_folder(tmp_path, "Llama-3")), "T01")
    assert seen.severity == "fail"
    assert "<|end_of_text|> (1)" in seen.evidence
    assert "<|eot_id|> (4)" in seen.evidence
    assert seen.values["eos_token"] == "<|eot_id|>"


def test_several_declared_ends_are_a_warning_for_trainers_that_know_one(tmp_path: Path):
    folder = chat_folder(tmp_path, "Phi-3.5")
    put(folder, "generation_config.json", {"eos_token_id": [4, 1, 0]})
    seen = finding(Subject(folder), "T01")
    assert seen.severity == "warn"
    assert seen.values["declared"] == {"tokenizer": [0], "generation_config": [0, 1, 4]}
    assert "counts answers as cut off that end with <|assistant|> (1), <|end|> (4)" in seen.why


def test_eos_sets_that_agree_are_fine(tmp_path: Path):
    folder = chatml_folder(tmp_path)
    for name in ("generation_config.json", "config.json"):
        put(folder, name, {"eos_token_id": 2})
    seen = finding(Subject(folder), "T01")
    assert seen.severity == "ok"
    assert seen.values["declared"] == {"tokenizer": [2], "generation_config": [2], "config": [2]}


def test_more_ends_than_the_template_writes_are_fine_as_qwen_publishes_them(tmp_path: Path):
    folder = chat_folder(tmp_path, "Qwen2.5")
    put(folder, "generation_config.json", {"eos_token_id": [2, 0]})
    assert finding(Subject(folder), "T01").severity == "ok"
    assert finding(Subject(folder), "T02").severity == "ok"


# case 6


def test_a_template_with_bos_and_a_tokenizer_that_adds_it_make_two(tmp_path: Path):
    seen = finding(Subject(chat_folder(tmp_path, "Gemma3")), "T03")
    assert seen.severity == "fail"
    assert seen.values["first_ids"][:2] == [2, 2]
    assert "[2, 2, 4]" in seen.evidence


@pytest.mark.parametrize(
    ("tokens", "severity"), [(("<bos>", "<start_of_turn>"), "fail"), (("<s>", "</s>"), "warn")]
)
def test_bos_that_only_the_tokenizer_adds_is_missing_from_chats(
    tmp_path: Path, tokens: tuple[str, str], severity: str
):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    byte_level(tokens, bos=tokens[0], eos_token=tokens[1], chat_template=template).save_pretrained(tmp_path)
    assert finding(Subject(tmp_path), "T03").severity == severity  # Gemma is known to need it


# the others


def test_right_padding_fails_only_where_the_settings_ask_for_it(tmp_path: Path):
    folder = chatml_folder(tmp_path, padding_side="right")
    assert finding(Subject(folder), "T06").severity == "warn"
    assert finding(Subject(folder, settings={"padding_side": "right"}), "T06").severity == "fail"
    assert finding(Subject(chatml_folder(tmp_path / "left")), "T06").severity == "ok"


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"eos_token_id": "x", "vocab_size": "y"}', "\x00", "[" * 9999]
)
def test_a_broken_file_is_one_line(tmp_path: Path, name: str, content: str):
    folder = chatml_folder(tmp_path)
    (folder / name).write_text(content)
    try:
        said = f"{folder}: {examine(Subject(folder)).verdict}"
    except (DataError, ModelError) as error:
        said = str(error)
    assert "\n" not in said and str(folder) in said


def test_a_broken_tokenizer_is_one_line(tmp_path: Path):
    folder = chatml_folder(tmp_path)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be loaded: .+") as caught:
        examine(Subject(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["phi-3-mini-instruct", "qwen2.5-instruct", "qwen3"])
def test_published_tokenizers_do_not_fail_for_single_turns(shared: Callable[[str], Path], name: str):
    diagnosis = examine(Subject(shared(f"data/tokenizers/{name}")))
    assert [one.id for one in diagnosis.findings if one.severity == "fail"] == []
    assert {one.id for one in diagnosis.findings} >= {"T01", "T02", "T03", "T05", "T06", "T07", "C01", "C11"}
    assert "T04" in {one.id for one in diagnosis.skipped}
