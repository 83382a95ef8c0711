"""Averaged weights are the mean of the members', and models that have no mean are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import encoders
from holdtrue.errors import ModelError
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard, read_card, weights_hash
from holdtrue.reward.gate import Gate
from holdtrue.reward.kinds.aspects import Aspects, GateSettings
from holdtrue.reward.scorer import RewardScorer
from holdtrue.reward.verify import sample
from holdtrue.reward.weight_average import average
from holdtrue.settings import LoraSettings, ModelSettings

Make = Callable[..., Path]


def save(base: Path, folder: Path, seed: int, **settings: Any) -> Path:
    """A model whose weights, backbone too, were moved by noise of that seed."""
    card = settings.pop("card", RewardCard())
    loaded = store.load(ModelSettings(path=str(base), **settings), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    store.save(loaded, folder, card)
    return folder


def rewards(loaded: store.Loaded) -> np.ndarray:
    return np.concatenate(RewardScorer(loaded).score(sample()))


def test_every_weight_and_the_head_are_the_mean(base_model: Make, tmp_path: Path) -> None:
    base = base_model()
    folders = [save(base, tmp_path / f"m{seed}", seed) for seed in (1, 2, 3)]
    made = average(folders)
    store.publish(made.loaded, tmp_path / "mean", made.card)
    found = load_file(tmp_path / "mean" / "model.safetensors")
    parts = [load_file(folder / "model.safetensors") for folder in folders]
    assert found.keys() == parts[0].keys() and "score.weight" in found
    for name, weight in found.items():
        torch.testing.assert_close(weight, (parts[0][name] + parts[1][name] + parts[2][name]) / 3)
    heads = [part["score.weight"][0] for part in parts]
    cosines = [
        torch.dot(heads[i], heads[j]) / heads[i].norm() / heads[j].norm() for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert made.least_cosine == pytest.approx(min(cosines).item(), abs=1e-5)
    assert made.norms == pytest.approx([head.norm().item() for head in heads])


def test_it_is_an_ordinary_model_whose_card_names_its_members(base_model: Make, tmp_path: Path) -> None:
    base = base_model()
    cards = [RewardCard(max_length=n, loss={"kind": "hinge"}, data={f"{n}": "x"}) for n in (100, 60)]
    folders = [save(base, tmp_path / f"m{i}", i, card=card) for i, card in enumerate(cards)]
    made = average(folders)
    store.publish(made.loaded, tmp_path / "mean", made.card)
    card = read_card(tmp_path / "mean")
    assert card is not None
    assert card.averaged == {str(folder): weights_hash(folder) for folder in folders}
    assert (card.base_model, card.max_length, card.loss) == (str(base), 60, {"kind": "hinge"})
    assert card.data == {"100": "x", "60": "x"}
    assert not card.reward and not card.calibration  # those of the members are not its own
    again = store.load_trained(tmp_path / "mean")
    np.testing.assert_array_equal(rewards(again), rewards(made.loaded))


def test_adapters_are_merged_before_they_are_averaged(base_model: Make, tmp_path: Path) -> None:
    base = base_model()
    lora = LoraSettings(r=2, alpha=2)
    folders = [save(base, tmp_path / f"m{seed}", seed, lora=lora) for seed in (1, 2)]
    assert (folders[0] / "adapter_config.json").is_file()
    merged = []
    for folder in folders:
        loaded = store.load_trained(folder)
        merged.append(loaded.model.classifier.merge_and_unload().state_dict())
    made = average(folders)
    for name, weight in made.loaded.model.inner.state_dict().items():
        torch.testing.assert_close(weight, (merged[0][name] + merged[1][name]) / 2)
    store.publish(made.loaded, tmp_path / "mean", made.card)
    assert not (tmp_path / "mean" / "adapter_config.json").exists()
    np.testing.assert_allclose(
        rewards(store.load_trained(tmp_path / "mean")), rewards(made.loaded), atol=1e-5
    )


def other_tokenizer(byte_tokenizer: Callable[..., Any]) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["zebra"])
    return tokenizer


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"model_type": "mistral"}, {}, "their architectures are LlamaFor.* and MistralFor"),
        ({"num_hidden_layers": 3}, {}, r"model.layers.2.* is missing in one and \(.*\) in the other"),
        ({"intermediate_size": 64}, {}, r"is \(48, 32\) in one and \(64, 32\) in the other|is \(32, 48\)"),
        ({}, {"kind": "two_class"}, "their kinds are .*[Ss]calar.* and .*[Tt]wo"),
        ({}, {"card": RewardCard(plain_text="raw")}, "they take plain text for chat and raw"),
        (
            {},
            {"card": RewardCard(base_model="another/base")},
            "trained from different models, .* and another/base",
        ),
    ],
)
def test_what_has_no_mean_is_refused_by_name(
    changes: dict[str, Any], settings: dict[str, Any], reason: str, base_model: Make, tmp_path: Path
) -> None:
    one = save(base_model(), tmp_path / "m1", 1)
    two = save(base_model("other", **changes), tmp_path / "m2", 1, **settings)
    with pytest.raises(ModelError, match=f"weights of {one} and {two} cannot be averaged: .*{reason}"):
        average([one, two])


def test_different_tokenizers_and_templates_are_refused(
    base_model: Make, byte_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    one = save(base_model(vocab_size=260), tmp_path / "m1", 1)
    known = other_tokenizer(byte_tokenizer)
    two = save(base_model("b2", tokenizer=known, vocab_size=260), tmp_path / "m2", 1)
    with pytest.raises(ModelError, match="their tokenizers differ"):
        average([one, two])
    spoken = byte_tokenizer(chat_template="{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    three = save(base_model("b3", tokenizer=spoken, vocab_size=260), tmp_path / "m3", 1)
    with pytest.raises(ModelError, match="their chat templates differ"):
        average([one, three])


def test_models_that_compare_are_refused(base_model: Make, tmp_path: Path) -> None:
    loaded = store.load(ModelSettings(path=str(base_model()), kind="preference_lm"))
    store.save(loaded, tmp_path / "m1", RewardCard())
    with pytest.raises(ModelError, match=r"m1 compares answers \(preference_lm\): its weights are not"):
        average([tmp_path / "m1", tmp_path / "m1"])


def test_weights_that_are_not_finite_are_refused(base_model: Make, tmp_path: Path) -> None:
    base = base_model()
    one, loaded = save(base, tmp_path / "m1", 1), store.load(ModelSettings(path=str(base)), seed=2)
    with torch.no_grad():
        loaded.model.head.weight[0, 3] = float("nan")
    store.save(replace(loaded), tmp_path / "m2", RewardCard())
    with pytest.raises(ModelError, match=r"m2 cannot be averaged: score.weight is not finite"):
        average([one, tmp_path / "m2"])


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_adapters_of_an_encoder_average_to_one_that_pools_as_they_do(pool: str, tmp_path: Path) -> None:
    base = encoders.write(tmp_path / "base", "roberta")
    folders = [save(base, tmp_path / f"m{seed}", seed, pool=pool, lora=LoraSettings(r=2)) for seed in (1, 2)]
    # whole models with the same weights, saved before they are averaged
    merged = [tmp_path / "w1", tmp_path / "w2"]
    for folder, whole in zip(folders, merged, strict=True):
        store.save(store.load_trained(folder), whole, RewardCard(), merge=True)
    for name, members in (("adapters", folders), ("whole", merged)):
        made = average(members)
        store.publish(made.loaded, tmp_path / name, made.card)
    found, expected = (rewards(store.load_trained(tmp_path / name)) for name in ("adapters", "whole"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ({"pool": "mean"}, {"pool": "max"}, "they are pooled by mean and max"),
        ({"input": "text"}, {"input": "pair"}, "they read text and pair"),
    ],
)
def test_encoders_that_read_differently_are_refused(
    one: dict[str, Any], other: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    base = encoders.write(tmp_path / "base")
    folders = [save(base, tmp_path / f"m{n}", n, **changes) for n, changes in enumerate((one, other))]
    with pytest.raises(ModelError, match=reason):
        average(folders)


def test_a_model_with_a_gate_is_refused(base_model: Make, tmp_path: Path) -> None:
    kind = Aspects(names=["x", "y"], gate=GateSettings(width=4, layers=1))
    base = base_model()
    for seed in (1, 2):
        loaded = store.load(ModelSettings(path=str(base), kind=kind), seed=seed)
        assert kind.gate is not None
        loaded.model.gate = Gate(32, 2, kind.gate, seed)
        store.save(loaded, tmp_path / f"m{seed}", RewardCard())
    with pytest.raises(ModelError, match="has a gate"):
        average([tmp_path / "m1", tmp_path / "m2"])
