from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from doctor_folders import EMBEDDING, HEAD, adapter, noise, write_json, write_tensors
from doctor_rows import only, results
from holdtrue.doctor.checks import examine
from holdtrue.doctor.subject import Subject


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


def test_pickled_weights_are_skipped_and_the_rest_is_checked(folder):
    model = folder()
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    diagnosis = examine(Subject(model))
    assert "is a pickle" in next(one.why for one in diagnosis.skipped if one.id == "W01")
    assert any(one.id == "T01" for one in diagnosis.findings)
