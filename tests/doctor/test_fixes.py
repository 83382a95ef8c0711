"""Every acceptance case mended in a copy: the right edit, nothing else changed, and the copy is clean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat_families import CHATML, QWEN, byte_level, chat_folder, chatml_folder, put
from doctor_folders import bfloat16, matrix, write_tensors
from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine
from holdtrue.doctor.findings import Diagnosis
from holdtrue.doctor.fixes import plan, write
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.weights import Weights
from holdtrue.errors import DataError


def severity(diagnosis: Diagnosis, id: str) -> str:
    return next(one.severity for one in diagnosis.findings if one.id == id)


def mended(subject: Subject, output: Path, **more: Any) -> Diagnosis:
    """The copy's diagnosis after all fixes of the original's."""
    found = plan(subject, examine(subject))
    write(subject, found, output)
    return examine(Subject(output, **more))


def examples(count: int = 20) -> list[Example]:
    turns = ({"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"})
    return [Example(turns, f"a.jsonl:{i + 1}") for i in range(count)]


def test_case_1_padding_that_is_the_end_gets_another_token(tmp_path):
    folder = chatml_folder(tmp_path / "a", pad_token="<|im_end|>")
    subject = Subject(folder, examples=examples())
    before = examine(subject)
    finding = next(one for one in before.findings if one.id == "T02")
    assert finding.severity == "fail"
    assert "0/20 examples train EOS" in finding.evidence
    assert plan(subject, before).done["T02"] == "tokenizer_config.json: pad_token"
    assert severity(mended(subject, tmp_path / "b", examples=examples()), "T02") == "ok"


def test_case_2_the_end_of_a_turn_joins_the_ends_of_generation(tmp_path):
    folder = chatml_folder(tmp_path / "a", eos_token="<|endoftext|>")
    put(folder, "generation_config.json", {"eos_token_id": 0, "temperature": 0.7})
    subject = Subject(folder)
    assert severity(examine(subject), "T01") == "fail"
    after = mended(subject, tmp_path / "b")
    assert severity(after, "T01") == "ok"  # the tokenizer's end is mended too
    written = json.loads((tmp_path / "b" / "generation_config.json").read_text())
    assert 2 in written["eos_token_id"] and written["temperature"] == 0.7


def test_an_end_that_config_alone_declares_joins_those_of_generation(tmp_path):
    folder = chatml_folder(tmp_path / "a")
    put(folder, "generation_config.json", {"eos_token_id": 2})
    put(folder, "config.json", {"eos_token_id": 0})
    assert severity(examine(Subject(folder)), "T01") == "warn"
    assert severity(mended(Subject(folder), tmp_path / "b"), "T01") == "ok"


def test_case_3_untrained_rows_are_drawn_as_the_trained_ones_are(tmp_path):
    folder = chatml_folder(tmp_path / "a")
    rows = matrix(len(QWEN) + 256)
    rows[[1, 2]] *= 1e-6
    norm = np.ones(32, dtype=np.float32)
    tensors = {"model.embed_tokens.weight": rows, "lm_head.weight": bfloat16(rows), "model.norm.weight": norm}
    write_tensors(folder / "model.safetensors", tensors)
    put(folder, "config.json", {"model_type": "qwen2", "vocab_size": len(rows), "tie_word_embeddings": False})
    subject = Subject(folder)
    before = examine(subject)
    assert severity(before, "W01") == "fail"
    original = (folder / "model.safetensors").read_bytes()
    after = mended(subject, tmp_path / "b")
    assert severity(after, "W01") == "ok"
    assert (folder / "model.safetensors").read_bytes() == original
    weights = Weights.of(tmp_path / "b")
    assert weights is not None and weights.embedding is not None and weights.head is not None
    keep = np.ones(len(rows), dtype=bool)
    keep[[1, 2]] = False
    new = weights.embedding.read(0, len(rows))
    assert np.array_equal(new[keep], rows[keep])
    # 32 values drawn with the others' spread of 0.02 have a norm of 0.02 sqrt(32) = 0.113, give or take 0.014
    for drawn in (*new[[1, 2]], *weights.head.read(1, 3)):
        assert np.linalg.norm(drawn) == pytest.approx(0.113, abs=0.05)
    assert not np.array_equal(new[1], new[2])


def test_case_5_phantom_ids_get_ready_masks(tmp_path):
    tokens = (*QWEN, *(f"<|reserved_{i}|>" for i in range(192)))
    given = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}
    byte_level(tokens, **given).save_pretrained(tmp_path / "a")
    put(tmp_path / "a", "config.json", {"vocab_size": 512})
    subject = Subject(tmp_path / "a")
    found = plan(subject, examine(subject))
    masks = json.loads(found.files["masks.json"])
    assert masks["transformers"]["suppress_tokens"] == list(range(451, 512))
    assert found.to_apply["T04"] == "masks.json: the phantom ids [451, 512), a line for each engine"
    assert "T04" not in found.by_hand and "T04" not in found.done
    assert found.files["masks.json"].count("\n") == 5  # a line for each of three engines, and the braces
    assert not [line for line in found.diff(tmp_path / "a") if "-100" in line]


def test_case_6_a_second_bos_is_left_out(tmp_path):
    subject = Subject(chat_folder(tmp_path / "a", "Gemma3"))
    assert severity(examine(subject), "T03") == "fail"
    assert severity(mended(subject, tmp_path / "b"), "T03") == "ok"


def test_a_template_without_bos_is_given_one(tmp_path):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<end_of_turn>\n{% endfor %}"
    tokens = ("<bos>", "<start_of_turn>", "<end_of_turn>")
    made = byte_level(tokens, bos="<bos>", eos_token="<end_of_turn>", chat_template=template)
    made.save_pretrained(tmp_path / "a")
    subject = Subject(tmp_path / "a")
    assert severity(examine(subject), "T03") == "fail"
    assert severity(mended(subject, tmp_path / "b"), "T03") != "fail"


def test_settings_to_change_are_written_beside_the_model(tmp_path):
    folder = chatml_folder(tmp_path / "a")
    subject = Subject(folder, settings={"repetition_penalty": 1.05, "learning_rate": 1e-3})
    found = plan(subject, examine(subject))
    assert json.loads(found.files["settings_changes.json"])["repetition_penalty"] == 1.0


def test_the_difference_is_shown_and_nothing_else_is_touched(tmp_path):
    folder = chatml_folder(tmp_path / "a", eos_token="<|endoftext|>")
    put(folder, "generation_config.json", {"eos_token_id": 0})
    (folder / "notes").mkdir()
    (folder / "notes" / "README.md").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    subject = Subject(folder)
    found = plan(subject, examine(subject))
    lines = list(found.diff(folder))
    assert "--- a/generation_config.json" in lines
    assert any(line.startswith("-") and '"eos_token_id": 0' in line for line in lines)
    write(subject, found, tmp_path / "b")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (tmp_path / "b" / "notes" / "README.md").read_text() == "mine"


def test_a_copy_is_never_written_over_something(tmp_path):
    subject = Subject(chatml_folder(tmp_path / "a"))
    found = plan(subject, examine(subject))
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="exists"):
        write(subject, found, tmp_path / "b")
    with pytest.raises(DataError, match="lies in"):
        write(subject, found, tmp_path / "a" / "inside")


def test_an_adapter_is_mended_in_a_copy_of_its_own(tmp_path):
    folder = chatml_folder(tmp_path / "a")
    rows = matrix(len(QWEN) + 256)
    rows[[1, 2]] *= 1e-6
    write_tensors(folder / "model.safetensors", {"model.embed_tokens.weight": rows, "lm_head.weight": rows})
    put(folder, "config.json", {"model_type": "qwen2", "vocab_size": len(rows), "sliding_window": None})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    put(adapter, "adapter_config.json", {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 8})
    subject = Subject(folder, adapter=adapter)
    assert severity(examine(subject), "W02") == "fail"
    found = plan(subject, examine(subject))
    write(subject, found, tmp_path / "b")
    assert not (tmp_path / "b" / "adapter_config.json").exists()
    mended = json.loads((tmp_path / "b" / "adapter" / "adapter_config.json").read_text())
    assert (mended["peft_type"], mended["r"]) == ("LORA", 8)
    assert severity(examine(Subject(tmp_path / "b", adapter=tmp_path / "b" / "adapter")), "W02") == "ok"


def test_a_file_keeps_its_indentation_and_line_ends(tmp_path):
    folder = chatml_folder(tmp_path / "a", eos_token="<|endoftext|>")
    for indent, end in (("    ", "\n"), (" ", ""), ("\t", "\r\n")):
        text = f'{{\n{indent}"eos_token_id": 0,\n{indent}"odd":  [1,2]\n}}'.replace("\n", end or "\n") + end
        (folder / "generation_config.json").write_bytes(text.encode())
        subject = Subject(folder)
        found = plan(subject, examine(subject))
        write(subject, found, tmp_path / f"b{len(indent)}{len(end)}")
        written = (tmp_path / f"b{len(indent)}{len(end)}" / "generation_config.json").read_bytes().decode()
        line = (end or "\n") + indent
        ids = f"[{line}{indent}0,{line}{indent}2{line}]"
        assert written == text.replace('"eos_token_id": 0', f'"eos_token_id": {ids}')
        assert all(line.startswith(("-", "+", "@", " ")) for line in found.diff(folder))


def test_keys_that_are_null_stay_null(tmp_path):
    folder = chatml_folder(tmp_path / "a", eos_token="<|endoftext|>")
    put(folder, "generation_config.json", {"eos_token_id": 0, "top_k": None})
    subject = Subject(folder)
    found = plan(subject, examine(subject))
    assert json.loads(found.files["generation_config.json"])["top_k"] is None


def test_links_are_followed_and_a_broken_one_leaves_nothing_behind(tmp_path):
    folder = chatml_folder(tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes.txt").write_text("mine")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    subject = Subject(folder)
    write(subject, plan(subject, examine(subject)), tmp_path / "b")
    assert (tmp_path / "b" / "linked" / "notes.txt").read_text() == "mine"
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="link to nothing"):
        write(subject, plan(subject, examine(subject)), tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "c"))) == []
