"""A language model's next token says which answer is better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import comparing
from comparing import group
from holdtrue import kinds
from holdtrue.errors import ModelError, SettingsError
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.kinds.preference_lm import PreferenceLm
from holdtrue.reward.model import RewardOutput
from holdtrue.reward.verify import verify
from holdtrue.settings import LoraSettings, ModelSettings
from holdtrue.tokens import joint
from said import targets

GROUPS = [
    group("kind and warm", "rude"),
    group("the answer is so clear and right", "cold", "vague", prompt="tell about bees and trains ?"),
    group("warm", "so wrong then the answer is rude and vague", prompt="?"),
]


def sequences(loaded: store.Loaded) -> list[Any]:
    asked = [(g, [(i, j) for i in range(len(g.answers)) for j in range(len(g.answers))]) for g in GROUPS]
    return [ids for item in loaded.encoder().encode(asked) for ids in item.ids]  # type: ignore[arg-type]


def gaps(loaded: store.Loaded, sequences: list[Any]) -> torch.Tensor:
    model = loaded.model
    with torch.no_grad():
        out = model(model.batch([joint.plant(sequences[:4]), joint.plant(sequences[4:])]))
    assert out.gap is not None and out.rewards is None
    return out.gap


def theirs(folder: Path, family: str, sequences: list[Any], tokens: list[int]) -> torch.Tensor:
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    model = auto.from_pretrained(folder).eval()
    found = []
    for ids in sequences:
        inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None]}
        if family == "t5":
            inputs["decoder_input_ids"] = torch.tensor([[0]])
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        found.append(logits[tokens[0]] - logits[tokens[1]])
    return torch.stack(found)


def load(folder: Path, **options: Any) -> store.Loaded:
    options = {"kind": "preference_lm"} | options
    return store.load(ModelSettings(path=str(folder), **options), seed=3)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_the_gap_is_that_of_plain_transformers(tmp_path: Path, family: str, layout: Any) -> None:
    loaded = load(comparing.write(tmp_path / "model", family))
    assert loaded.model.layout == ("tree" if family == "llama" else "padded")
    if family == "llama":
        loaded.model.layout = layout
    asked = sequences(loaded)
    tokens = loaded.tokenizer.convert_tokens_to_ids(["A", "B"])
    expected = theirs(tmp_path / "model", family, asked, tokens)
    assert expected.std() > 1e-4
    assert gaps(loaded, asked) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("gemma2", {"final_logit_softcapping": 0.5, "head_dim": 8}),
        ("cohere", {"logit_scale": 3.0}),
        ("gpt2", {}),
    ],
)
def test_what_a_family_does_to_its_logits_is_kept(
    base_model: Callable[..., Path], model_type: str, changes: dict[str, Any]
) -> None:
    folder = base_model(model_type, model_type, **changes)
    loaded = load(folder)
    asked = sequences(loaded)
    tokens = loaded.tokenizer.convert_tokens_to_ids(["A", "B"])
    assert gaps(loaded, asked) == pytest.approx(theirs(folder, model_type, asked, tokens), abs=1e-4)


def test_logits_2_and_1_say_73_percent() -> None:
    out = PreferenceLm().read(torch.tensor([[2.0, 1.0]]), torch.zeros(1, 1), torch.ones(1))
    assert out.gap is not None and out.gap.sigmoid().item() == pytest.approx(0.731059, abs=1e-6)  # σ(1)


def test_the_loss_of_a_gap_is_the_softplus_of_it() -> None:
    out = RewardOutput(gap=torch.tensor([0.5, -0.5]))
    terms = BradleyTerry()(out, targets(2, [0, 1], [0, 1], label=[1.0, 0.0]))
    assert terms.terms.tolist() == pytest.approx([0.474077, 0.474077], abs=1e-6)  # softplus(-0.5)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["whole", "lora"])
def test_it_is_saved_as_a_language_model_bit_for_bit(tmp_path: Path, family: str, lora: Any) -> None:
    loaded = load(comparing.write(tmp_path / "base", family), lora=lora)
    assert loaded.fresh_head
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    store.save(loaded, tmp_path / "saved", RewardCard(max_length=100))
    again = store.load_trained(tmp_path / "saved")
    assert again.model.kind == loaded.model.kind and again.encoder().max_length == 100
    asked = sequences(loaded)
    assert torch.equal(gaps(loaded, asked), gaps(again, asked))
    assert {check.name: check for check in verify(tmp_path / "saved") if check.status == "fail"} == {}
    if lora is None:
        tokens = loaded.tokenizer.convert_tokens_to_ids(["A", "B"])
        assert gaps(again, asked) == pytest.approx(
            theirs(tmp_path / "saved", family, asked, tokens), abs=1e-5
        )
    else:
        assert (tmp_path / "saved" / "adapter_model.safetensors").is_file()
        store.save(loaded, tmp_path / "merged", RewardCard(), merge=True)
        merged = store.load_trained(tmp_path / "merged")
        assert gaps(merged, asked) == pytest.approx(gaps(loaded, asked), abs=1e-5)


def test_a_language_model_that_was_not_trained_to_compare_is_not_scored_with(tmp_path: Path) -> None:
    folder = comparing.write(tmp_path / "base", "llama")
    with pytest.raises(ModelError, match="has no reward head"):
        store.load_trained(folder)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["A", "tell about"], "'tell about' is 2 tokens"),
        (["A", "banana"], "'banana' is unknown"),
        (["A", "A"], "are the same token"),
    ],
)
def test_replies_must_be_two_single_tokens(tmp_path: Path, tokens: list[str], message: str) -> None:
    folder = comparing.write(tmp_path / "base", "llama")
    with pytest.raises(ModelError, match=message):
        load(folder, kind={"kind": "preference_lm", "tokens": tokens})


@pytest.mark.parametrize("template", ["no fields", "{context} {first}", "{context} {first} {second} {third}"])
def test_a_template_names_its_three_parts(template: str) -> None:
    with pytest.raises(SettingsError, match="context"):
        kinds.choose("holdtrue.reward.kinds", {"kind": "preference_lm", "template": template}, "scalar")


def test_bf16_rounds_the_backbone_and_not_the_gap(tmp_path: Path) -> None:
    loaded = load(comparing.write(tmp_path / "base", "llama"))
    asked = sequences(loaded)
    exact = gaps(loaded, asked)
    loaded.model.bf16 = True
    low = gaps(loaded, asked)
    assert low.dtype == torch.float32 and low == pytest.approx(exact, abs=0.1 * float(exact.std()))
    assert not torch.equal(low, low.bfloat16().float())


def test_gradients_reach_the_output_layer_and_the_backbone(tmp_path: Path) -> None:
    loaded = load(comparing.write(tmp_path / "base", "llama"))
    model = loaded.model
    model(model.batch([joint.plant(sequences(loaded))])).gap.sum().backward()
    weight = model.inner.lm_head.weight.grad
    assert set(weight.abs().sum(1).nonzero().flatten().tolist()) == set(model.tokens.tolist())
    assert all(p.grad is not None for p in model.backbone.parameters())
