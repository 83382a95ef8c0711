from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doctor_folders import bfloat16, matrix, write_json, write_tensors
from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Subject

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def folder(tmp_path: Path, byte_tokenizer: Callable[..., Any]) -> Callable[..., Path]:
    """Writes a tiny Qwen2: 259 tokens, of which 0 begins and 1 ends a turn and 2 is padding."""

    def make(head: bool = True, rows: int = 259, change: Any = None, **config: Any) -> Path:
        path = tmp_path / "model"
        path.mkdir(exist_ok=True)
        byte_tokenizer().save_pretrained(path)
        values = {EMBEDDING: matrix(rows), "model.norm.weight": np.ones(32, np.float32)}
        values |= {HEAD: matrix(rows, seed=1)} if head else {}
        if change:
            change(values)
        write_tensors(path / "model.safetensors", {name: bfloat16(array) for name, array in values.items()})
        write_json(path / "config.json", {"model_type": "qwen2", "tie_word_embeddings": not head, **config})
        return path

    return make


def adapter(path: Path, **values: Any) -> Path:
    path.mkdir(exist_ok=True)
    write_json(
        path / "adapter_config.json", {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"], **values}
    )
    return path


def results(subject: Subject, id: str) -> list[Finding]:
    return [one for one in examine(subject).findings if one.id == id]


def only(subject: Subject, id: str) -> Finding:
    (found,) = results(subject, id)
    return found


def noise(*ids: int) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for name in (EMBEDDING, HEAD):
            if name in values:
                values[name][list(ids)] *= 0.01

    return change


def test_chatml_on_a_base_model_fails_until_the_adapter_trains_its_rows(folder, tmp_path):
    model = folder(change=noise(0, 1))
    frozen = Subject(model, adapter(tmp_path / "lora"))
    rows, training = only(frozen, "W01"), only(frozen, "W02")
    assert rows.severity == training.severity == "fail"
    assert rows.values["used"] == training.values["ids"] == [0, 1]
    assert "<|im_start|> (0)" in rows.evidence and "small" in rows.evidence
    assert "trainable_token_indices" in training.fix and "modules_to_save" in training.fix
    assert training.values["frozen"] == {"embedding": [0, 1], "head": [0, 1]}
    for fix in (
        training.values["fix"]["adapter_config.json"],
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ):
        mended = Subject(model, adapter(tmp_path / "lora", **fix))
        assert only(mended, "W01").severity == only(mended, "W02").severity == "ok"


def test_lora_settings_of_the_run_count_as_an_adapter(folder):
    model, run = folder(change=noise(0, 1)), {"use_peft": True, "lora_target_modules": ["q_proj"]}
    assert only(Subject(model, settings=run), "W02").severity == "fail"
    run["lora_modules_to_save"] = ["embed_tokens", "lm_head"]
    assert only(Subject(model, settings=run), "W01").severity == "ok"
    assert only(Subject(model, settings=run), "W02").severity == "ok"


def test_an_adapter_that_trains_only_the_embedding_leaves_the_head_frozen(folder, tmp_path):
    subject = Subject(folder(change=noise(1)), adapter(tmp_path / "lora", modules_to_save=["embed_tokens"]))
    assert only(subject, "W02").values["frozen"] == {"head": [1]}


def test_a_list_of_token_indices_is_of_the_embedding_and_of_a_tied_head_too(folder, tmp_path):
    lora = adapter(tmp_path / "lora", trainable_token_indices=[0, 1])
    assert only(Subject(folder(head=False, change=noise(0, 1)), lora), "W02").severity == "ok"
    assert only(Subject(folder(head=True, change=noise(0, 1)), lora), "W02").values["frozen"] == {
        "head": [0, 1]
    }


def test_saving_both_matrices_of_a_tied_model_fails(folder, tmp_path):
    model = folder(head=False, change=noise(0, 1))
    both = {"modules_to_save": ["embed_tokens", "lm_head"]}
    found = only(Subject(model, adapter(tmp_path / "lora", **both)), "W03")
    assert found.severity == "fail" and "embed_tokens" in found.evidence and "lm_head" in found.evidence
    assert (
        only(
            Subject(model, adapter(tmp_path / "lora", **found.values["fix"]["adapter_config.json"])), "W03"
        ).severity
        == "ok"
    )
    assert only(Subject(folder(), adapter(tmp_path / "lora", **both)), "W03").severity == "ok"  # untied


def test_zero_rows_that_the_template_uses_fail_and_mean_rows_mend_them(folder):
    def zero(values: dict[str, Any]) -> None:
        values[EMBEDDING][[0, 1]] = 0

    found = only(Subject(folder(change=zero)), "W01")
    assert found.severity == "fail" and "zero" in found.evidence and found.values["used"] == [0, 1]
    assert found.values["rules"]["embedding"] == {"zero": [(0, 1)]}

    def mean(values: dict[str, Any]) -> None:
        values[EMBEDDING][[0, 1]] = values[EMBEDDING][2:].mean(axis=0) + matrix(2, seed=9)

    assert only(Subject(folder(change=mean)), "W01").severity == "ok"


def test_untrained_rows_that_nobody_uses_are_told_and_do_no_harm(folder):
    found = only(Subject(folder(rows=512, change=noise(*range(259, 512)))), "W01")
    assert found.severity == "ok"
    assert found.values["untrained"] == {"embedding": [(259, 511)], "head": [(259, 511)]}
    assert "259-511" in found.evidence and "0 of them are used" in found.evidence


def test_an_untrained_word_of_the_data_fails_when_common_and_warns_when_rare(folder):
    model = folder(change=noise(50))

    def data(rare: bool) -> list[Example]:
        word = "P"  # its byte is the 48th from "!", which has id 3
        talk = ({"role": "user", "content": "x"}, {"role": "assistant", "content": "y"})
        other = ({"role": "user", "content": word}, {"role": "assistant", "content": word})
        return [Example(other if i == 0 or not rare else talk, f"data:{i}") for i in range(20)]

    assert only(Subject(model, examples=data(rare=False)), "W01").severity == "fail"
    assert only(Subject(model, examples=data(rare=True)), "W01").severity == "warn"


def test_without_a_tokenizer_untrained_rows_warn(folder):
    model = folder(change=noise(0))
    for path in model.glob("*tokenizer*"):
        path.unlink()
    found = only(Subject(model), "W01")
    assert found.severity == "warn" and "not known" in found.evidence


def test_a_tie_flag_over_unequal_matrices_fails(folder):
    found = only(Subject(folder(tie_word_embeddings=True)), "W04")
    assert found.severity == "fail" and found.values["different_rows"] == 259
    assert only(Subject(folder(**found.values["fix"]["config.json"])), "W04").severity == "ok"

    def equal(values: dict[str, Any]) -> None:
        values[HEAD] = values[EMBEDDING]

    assert only(Subject(folder(tie_word_embeddings=True, change=equal)), "W04").severity == "ok"


def test_nan_in_a_row_or_a_norm_fails(folder):
    def break_it(values: dict[str, Any]) -> None:
        values[HEAD][17, 3] = np.nan
        values["model.norm.weight"][5] = np.inf

    found = [one for one in results(Subject(folder(change=break_it)), "W05") if one.severity == "fail"]
    assert found[0].values["nonfinite"] == {HEAD: [(17, 17)], "model.norm.weight": [(5, 5)]}
    assert only(Subject(folder()), "W05").severity == "ok"


@pytest.mark.parametrize(
    ("config", "run", "severity"),
    [
        ({"model_type": "gemma3", "dtype": "float16"}, None, "fail"),
        ({"model_type": "gemma3", "dtype": "bfloat16"}, None, "ok"),
        ({"model_type": "gemma3", "dtype": "bfloat16"}, {"fp16": True}, "fail"),
        ({"model_type": "qwen2_5_vl", "torch_dtype": "torch.float16"}, None, "fail"),
        ({"model_type": "llama", "dtype": "float16"}, None, "ok"),
        ({"model_type": "qwen2", "dtype": "bfloat16"}, {"attn_implementation": "eager"}, "warn"),
        ({"model_type": "qwen2", "dtype": "float16"}, {"attn_implementation": "eager"}, "fail"),
        ({"model_type": "gemma2", "dtype": "bfloat16"}, {"attn_implementation": "eager"}, "ok"),
    ],
)
def test_float16_and_eager_attention_are_judged_by_family(tmp_path, config, run, severity):
    write_json(tmp_path / "config.json", config)
    assert only(Subject(tmp_path, settings=run), "W05").severity == severity


def test_packed_weights_are_skipped_with_a_reason(folder):
    model = folder()
    write_tensors(model / "model.safetensors", {EMBEDDING: np.zeros((259, 8), np.int8)})
    skipped = {one.id: one.why for one in examine(Subject(model)).skipped}
    assert "packed (I8)" in skipped["W01"]


def test_the_bytes_a_real_small_model_never_met_are_found_untrained(shared):
    folder = shared("models/stories260K")  # trained on ASCII stories; 256 of its 512 tokens are single bytes
    found = only(Subject(folder), "W01")
    assert found.severity == "ok"  # nothing uses them
    rows = {row for first, last in found.values["untrained"]["embedding"] for row in range(first, last + 1)}
    tokens = Subject(folder).tokenizer.convert_ids_to_tokens(sorted(rows))
    assert sum(token.startswith("<0x") for token in tokens) > 200
    assert not any(token.lstrip("▁").isalpha() and token.isascii() for token in tokens)
    example = Example((), "data:1", text="A trade mark: ™")
    assert "™" in only(Subject(folder, examples=[example]), "W01").evidence


def test_rows_beyond_the_tokenizer_are_counted_in_the_weights(folder):
    found = only(Subject(folder(rows=512)), "T04")  # config.json says nothing of vocab_size
    assert found.severity == "warn" and found.values["rows"] == 512
    tokens = len(Subject(folder()).tokenizer)
    assert only(Subject(folder(rows=tokens)), "T04").severity == "ok"


def test_pickled_weights_are_skipped_and_the_rest_is_checked(folder):
    model = folder()
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    diagnosis = examine(Subject(model))
    assert "is a pickle" in next(one.why for one in diagnosis.skipped if one.id == "W01")
    assert any(one.id == "T01" for one in diagnosis.findings)
