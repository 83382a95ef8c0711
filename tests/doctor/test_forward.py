"""The model that the doctor runs: what it gives, what it needs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from doctor_folders import adapter, write_json
from holdtrue.doctor import forward
from holdtrue.doctor.findings import Missing
from holdtrue.doctor.forward import ROOM, Forward, Need
from holdtrue.doctor.subject import Subject
from holdtrue.errors import ResourceError

IDS = [5, 9, 200]


def _direct(model: Any) -> Any:
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([IDS])).logits[0, -1], -1).numpy()


def test_what_follows_is_what_transformers_says(base_model):
    folder = base_model()
    found = Forward.of(Subject(folder))
    np.testing.assert_allclose(
        found.after(IDS), _direct(AutoModelForCausalLM.from_pretrained(folder)), atol=1e-5
    )
    assert not found.adapted


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_is_applied_and_one_without_weights_is_not(base_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = base_model()
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder),
        LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    ).eval()
    adapted.save_pretrained(tmp_path / "lora")
    found = Forward.of(Subject(folder, tmp_path / "lora"))
    assert found.adapted
    np.testing.assert_allclose(found.after(IDS), _direct(adapted), atol=1e-5)
    plain = Forward.of(Subject(folder, adapter(tmp_path / "untrained")))
    assert not plain.adapted and np.abs(plain.after(IDS) - found.after(IDS)).max() > 1e-3


def test_the_weights_take_their_number_times_the_bytes_of_the_type_they_are_run_in(base_model):
    folder = base_model()
    values = AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert (Need.of(Subject(folder)).dtype, Need.of(Subject(folder)).bytes) == ("float32", 4 * values)
    AutoModelForCausalLM.from_pretrained(folder).half().save_pretrained(folder)
    need = Need.of(Subject(folder))
    assert (need.dtype, need.bytes) == ("bfloat16", 2 * values)
    assert np.isfinite(Forward.of(Subject(folder)).after(IDS)).all()


def test_a_machine_with_too_little_memory_is_told_so_before_anything_is_loaded(
    base_model, tmp_path, monkeypatch
):
    folder, machine = base_model(), tmp_path / "meminfo"
    monkeypatch.setattr(forward, "_MEMORY", machine)
    monkeypatch.setattr(forward, "_CONTAINER", tmp_path)
    need = Need.of(Subject(folder))
    assert need.available is None and "available" not in str(need)  # a system that does not say
    machine.write_text(f"MemTotal: 9 kB\nMemAvailable: {(need.bytes + ROOM) // 1024 + 1} kB\n")
    assert Need.of(Subject(folder)).available
    (tmp_path / "memory.max").write_text("max\n")
    Need.of(Subject(folder))
    (tmp_path / "memory.max").write_text(f"{need.bytes + ROOM + 500}\n")
    (tmp_path / "memory.current").write_text("800\n")
    (tmp_path / "memory.stat").write_text("anon 500\nfile 300\ninactive_file 200\nactive_file 100\n")
    assert Need.of(Subject(folder)).available == need.bytes + ROOM  # files' pages are given back
    (tmp_path / "memory.current").write_text("801\n")
    with pytest.raises(
        ResourceError, match=r"needs 1\.1 GB of memory: the weights take 0\.1 MB as float32, 1\.1 GB"
    ):
        Need.of(Subject(folder))


def _changed(folder: Path, **config: Any) -> Path:
    values = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", values | config)
    return folder


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "LlamaForSequenceClassification is no causal",
        ),
        ({"quantization_config": {"bits": 4}}, "packed"),
        ({"hidden_size": 64}, "the model cannot be loaded: "),
        ({"num_hidden_layers": 3}, "9 weights are not in the files, such as model.layers.2."),
        (
            {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "code.Mine"}},
            "the model cannot be loaded",
        ),
    ],
)
def test_what_cannot_be_run_is_skipped_with_the_reason(base_model, config, why):
    with pytest.raises(Missing, match=why):
        Forward.of(Subject(_changed(base_model(), **config)))


def test_a_folder_that_names_no_packing_is_run_and_one_whose_file_is_empty_is_skipped(base_model):
    folder = _changed(base_model(), quantization_config=None)
    Forward.of(Subject(folder))
    save_file({}, folder / "model.safetensors")
    with pytest.raises(Missing, match="the weights hold no tensor"):
        Forward.of(Subject(folder))


def test_a_tied_model_has_no_head_of_its_own_and_lacks_nothing(base_model):
    Forward.of(Subject(base_model(tie_word_embeddings=True)))


def test_pickles_are_not_loaded(base_model, tmp_path):
    folder = base_model()
    pickled = adapter(tmp_path / "lora")
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(Missing, match="is a pickle"):
        Forward.of(Subject(folder, pickled))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Missing, match="is a pickle"):
        Forward.of(Subject(folder))


def test_ids_beyond_the_embedding_are_refused(base_model):
    with pytest.raises(Missing, match="writes id 259, the embedding has 259 rows"):
        Forward.of(Subject(base_model())).after([3, 259])
