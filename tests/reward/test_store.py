"""Saved models: the same rewards again, here and elsewhere, and errors for broken folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from holdtrue.errors import DataError, HoldtrueError, ModelError, SettingsError
from holdtrue.records import as_json
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard, read_card
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.reward.scorer import RewardScorer
from holdtrue.reward.store import Loaded
from holdtrue.reward.verify import sample
from holdtrue.settings import LoraSettings, ModelSettings

Make = Callable[..., Path]
SAMPLE = sample()[:7]


def load(folder: Path, **settings: Any) -> Loaded:
    return store.load(ModelSettings(path=str(folder), **settings), seed=42)


def trained(loaded: Loaded) -> Loaded:
    """As if trained: everything trainable has moved."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return loaded


def rewards(loaded: Loaded) -> np.ndarray:
    values = np.concatenate(RewardScorer(loaded).score(SAMPLE))
    assert np.isfinite(values).all()
    return values


def plain_rewards(model: Any, tokenizer: Any) -> np.ndarray:
    """What a user gets who follows the README of the saved model."""
    values = []
    for group in SAMPLE:
        for k in range(len(group.answers)):
            ids = tokenizer.apply_chat_template(
                as_json(group.conversation(k)), return_tensors="pt", return_dict=True
            )
            with torch.no_grad():
                values.append(model(**ids).logits[0, 0].item())
    return np.array(values)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() <= 1e-5 * np.abs(other).max())


@pytest.fixture
def saved(base_model: Make, tmp_path: Path) -> Path:
    """A saved reward model, the ordinary way."""
    store.save(trained(load(base_model())), tmp_path / "saved", RewardCard(max_length=500))
    return tmp_path / "saved"


@pytest.fixture
def adapter(base_model: Make, tmp_path: Path) -> Path:
    """A saved LoRA adapter."""
    loaded = trained(load(base_model(), lora=LoraSettings(r=4)))
    store.save(loaded, tmp_path / "adapter", RewardCard(max_length=500))
    return tmp_path / "adapter"


def test_a_saved_model_comes_back_weight_for_weight(base_model: Make, tmp_path: Path) -> None:
    loaded = trained(load(base_model()))
    assert loaded.fresh_head
    store.save(loaded, tmp_path / "saved", RewardCard())
    again = load(tmp_path / "saved")
    assert not again.fresh_head
    old, new = loaded.model.state_dict(), again.model.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)
    assert np.array_equal(rewards(again), rewards(loaded))


def test_plain_transformers_gives_the_saved_models_rewards(saved: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(saved)  # as it comes, no options
    assert close(plain_rewards(model, AutoTokenizer.from_pretrained(saved)), rewards(load(saved)))


def test_plain_peft_gives_the_saved_adapters_rewards(adapter: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    with quiet_loading():
        model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=1).eval()
    assert close(plain_rewards(model, AutoTokenizer.from_pretrained(adapter)), rewards(load(adapter)))


def test_the_saved_configuration_follows_the_fields_conventions(base_model: Make, tmp_path: Path) -> None:
    card = RewardCard(reward={"mean": 0.25, "std": 2.0, "count": 10})
    store.save(load(base_model()), tmp_path / "saved", card)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert (config["id2label"], config["label2id"]) == ({"0": "reward"}, {"reward": 0})
    assert config["problem_type"] == "regression"
    assert config["pad_token_id"] == 2 != config["eos_token_id"]
    assert config["value_head_prefix"] == "score"
    assert (config["mean"], config["std"]) == (0.25, 2.0)
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert file.get_slice("score.weight").get_shape() == [1, 32]
        assert "score.bias" not in set(file.keys())


@pytest.mark.parametrize("kind", ["saved", "adapter"])
def test_no_weights_but_safetensors_and_no_code_are_in_the_folder(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".jinja", ".md"}


def test_an_adapter_is_saved_with_its_head_and_comes_back_with_it(adapter: Path) -> None:
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert any("score" in name for name in names) and any("lora_A" in name for name in names)
    again = load(adapter)
    assert not again.fresh_head
    trainable = {name for name, p in again.model.named_parameters() if p.requires_grad}
    assert any("score" in name for name in trainable) and any("lora_B" in name for name in trainable)
    assert not any(name.endswith("embed_tokens.weight") for name in trainable)


def test_rewards_of_an_adapter_survive_saving_and_merging(base_model: Make, tmp_path: Path) -> None:
    loaded = trained(load(base_model(), lora=LoraSettings(r=4)))
    before = rewards(loaded)
    store.save(loaded, tmp_path / "adapter", RewardCard())
    assert close(rewards(load(tmp_path / "adapter")), before)
    store.save(loaded, tmp_path / "merged", RewardCard(), merge=True)
    merged = load(tmp_path / "merged")
    assert not hasattr(merged.model.classifier, "peft_config")
    assert close(rewards(merged), before)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_the_head_is_drawn_from_the_seed_alone(base_model: Make) -> None:
    folder = base_model()
    torch.manual_seed(1)
    one = load(folder).model.head.weight
    torch.manual_seed(2)
    other = load(folder).model.head.weight
    assert torch.equal(one, other) and one.std().item() == pytest.approx(33**-0.5, rel=0.5)
    assert not torch.equal(one, store.load(ModelSettings(path=str(folder)), seed=43).model.head.weight)


def test_weights_held_in_bf16_keep_a_float32_head_through_saving(base_model: Make, tmp_path: Path) -> None:
    loaded = load(base_model(), dtype="bfloat16")
    assert loaded.model.backbone.dtype == torch.bfloat16
    head = loaded.model.head.weight
    assert head.dtype == torch.float32 and (head != head.bfloat16().float()).any()  # drawn in float32
    assert torch.equal(head, load(tmp_path / "base").model.head.weight)
    store.save(trained(loaded), tmp_path / "saved", RewardCard())
    again = load(tmp_path / "saved", dtype="bfloat16")
    assert again.model.backbone.dtype == torch.bfloat16
    assert again.model.head.weight.dtype == torch.float32
    assert torch.equal(again.model.head.weight, loaded.model.head.weight)
    assert np.array_equal(rewards(again), rewards(loaded))


def test_an_adapter_on_a_bf16_base_keeps_a_float32_head(base_model: Make, tmp_path: Path) -> None:
    loaded = trained(load(base_model(), dtype="bfloat16", lora=LoraSettings(r=4)))
    store.save(loaded, tmp_path / "adapter", RewardCard())
    again = load(tmp_path / "adapter", dtype="bfloat16")
    heads = [dict(m.model.head.named_parameters())["modules_to_save.default.weight"] for m in (loaded, again)]
    assert heads[0].dtype == heads[1].dtype == torch.float32
    assert torch.equal(*heads)


@pytest.fixture
def gpt2(base_model: Make, byte_tokenizer: Callable[..., Any]) -> Path:
    """GPT-2 as it comes: no padding token, one token for beginning, end and unknown."""
    tokenizer = byte_tokenizer(pad_token=None, bos_token="<|im_end|>", unk_token="<|im_end|>")
    return base_model("gpt2", "gpt2", tokenizer, vocab_size=258)


def test_gpt2_gets_a_padding_token_that_is_not_eos(gpt2: Path, tmp_path: Path) -> None:
    loaded = trained(load(gpt2))
    assert loaded.tokenizer.pad_token == "<|pad|>"
    assert loaded.tokenizer.pad_token_id == 258 != loaded.tokenizer.eos_token_id
    assert loaded.model.inner.get_input_embeddings().num_embeddings == 259
    store.save(loaded, tmp_path / "saved", RewardCard())
    again = load(tmp_path / "saved")
    assert again.model.inner.config.pad_token_id == 258
    assert np.array_equal(rewards(again), rewards(loaded))


def test_an_adapter_on_a_model_that_lacked_a_padding_token_loads_again(gpt2: Path, tmp_path: Path) -> None:
    loaded = trained(load(gpt2, lora=LoraSettings(r=4)))
    store.save(loaded, tmp_path / "adapter", RewardCard())
    again = load(tmp_path / "adapter")
    again.model.layout = "padded"  # uses the padding token's embedding
    assert close(rewards(again), rewards(loaded))


def test_a_padding_token_equal_to_eos_is_replaced(base_model: Make, byte_tokenizer: Any) -> None:
    loaded = load(base_model(tokenizer=byte_tokenizer(pad_token="<|im_end|>", unk_token="<|im_start|>")))
    assert loaded.tokenizer.pad_token == "<|im_start|>"  # the unknown token is at hand
    assert loaded.model.inner.config.pad_token_id == 0 == loaded.model.pad_id


def test_a_model_without_a_template_is_saved_with_the_plain_one(
    base_model: Make, byte_tokenizer: Any, tmp_path: Path
) -> None:
    loaded = load(base_model(tokenizer=byte_tokenizer(chat_template=None)))
    assert loaded.template == "plain"
    store.save(loaded, tmp_path / "saved", RewardCard())
    again = load(tmp_path / "saved")
    assert again.template == "plain"
    assert again.card.template["name"] == "plain"
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template


def test_publishing_replaces_what_was_there_and_leaves_nothing_beside(
    base_model: Make, tmp_path: Path
) -> None:
    target = tmp_path / "run" / "model"
    target.mkdir(parents=True)
    (target / "stale.safetensors").write_bytes(b"old")
    store.publish(load(base_model()), target, RewardCard())
    assert not (target / "stale.safetensors").exists()
    assert sorted(path.name for path in target.parent.iterdir()) == ["model"]
    assert read_card(target) is not None


def test_limits_come_from_the_call_then_the_card_then_the_model(saved: Path, base_model: Make) -> None:
    assert load(saved).encoder(100).max_length == 100
    assert load(saved).encoder().max_length == 500
    assert load(base_model("other")).encoder().max_length == 512
    assert load(saved).encoder(truncation="left").truncation == "left"
    with pytest.raises(SettingsError, match="513 is more than the 512 tokens the model can take"):
        load(saved).encoder(513)


def test_a_token_without_an_embedding_is_a_reason_and_no_crash(base_model: Make, byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<image>"])  # Gemma 3's text models come so
    loaded = load(base_model(tokenizer=tokenizer))
    scored = list(RewardScorer(loaded).stream([sample()[0], _with(sample()[0], "an <image>")]))
    assert np.isfinite(scored[0].rewards).all()
    assert scored[1].reasons == ("a token the model has no embedding for", None)


def _with(group: Any, text: str) -> Any:
    from dataclasses import replace

    from holdtrue.records import Answer, Message

    return replace(group, answers=(Answer((Message("assistant", text),)), group.answers[1]))


# Broken folders. Each breaks a good one in one way and names words of the error.


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        values.update(changes)
        (folder / name).write_text(json.dumps(values))

    return apply


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def reweigh(
    change: Callable[[dict[str, Any]], Any], name: str = "model.safetensors"
) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / name)
        change(weights)
        save_file(weights, folder / name, metadata={"format": "pt"})

    return apply


def as_pickle(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        torch.save(
            load_file(folder / name),
            folder / {"model": "pytorch_model.bin"}.get(name[:5], "adapter_model.bin"),
        )
        (folder / name).unlink()

    return apply


BROKEN_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "config garbage": (write("config.json", b"{garbage"), "config.json"),
    "config binary": (write("config.json", b"\xff\xfe\x00"), "cannot be loaded"),
    "config a list": (write("config.json", b"[]"), "cannot be loaded"),
    "config of an unknown model": (edit("config.json", model_type="banana"), "banana"),
    "config with a wrong type": (edit("config.json", hidden_size="x"), "hidden_size"),
    "config without heads": (edit("config.json", num_attention_heads=0), "cannot be loaded"),
    "config of another width": (
        edit("config.json", hidden_size=64),
        r"\(259, 32\) in the file and \(259, 64\)",
    ),
    "config of an unknown dtype": (edit("config.json", dtype="float99"), "float99"),
    "more layers than weights": (edit("config.json", num_hidden_layers=5), "lacks weights"),
    "fewer layers than weights": (edit("config.json", num_hidden_layers=1), "no place for: model.layers.1"),
    "three outputs": (
        edit("config.json", id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2}),
        "has 3 outputs; a scalar reward model has 1",
    ),
    "encoder-decoder": (
        edit("config.json", model_type="t5", architectures=["T5ForConditionalGeneration"]),
        r"\(t5\) is an encoder: model.pool is cls, mean or max, not last",
    ),
    "masked LM": (
        edit("config.json", model_type="bert", architectures=["BertForMaskedLM"]),
        r"\(bert\) is an encoder: model.pool is cls, mean or max, not last",
    ),
    "ChatGLM": (edit("config.json", model_type="chatglm"), "model type `chatglm`"),
    "ChatGLM with its code": (
        edit("config.json", model_type="chatglm", auto_map={"AutoConfig": "configuration_chatglm.C"}),
        "needs Python code that comes with it.*--trust-remote-code",
    ),
    "remote code": (
        edit("config.json", model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"}),
        "needs Python code that comes with it.*--trust-remote-code",
    ),
    "weights missing": (remove("model.safetensors"), "no file named model.safetensors"),
    "weights empty": (write("model.safetensors", b""), "cannot be loaded"),
    "weights garbage": (write("model.safetensors", b"x" * 1000), "cannot be loaded"),
    "weights cut short": (lambda f: os.truncate(f / "model.safetensors", 5000), "cannot be loaded"),
    "pickle only": (as_pickle("model.safetensors"), "model.bin, a pickle"),
    "head missing": (reweigh(lambda w: w.pop("score.weight")), "head score.weight is not in the file"),
    "head of three rows": (
        reweigh(lambda w: w.update({"score.weight": torch.ones(3, 32)})),
        r"score.weight is \(3, 32\) in the file and \(1, 32\)",
    ),
    "head with a bias": (
        reweigh(lambda w: w.update({"score.bias": torch.ones(1)})),
        "no place for: score.bias",
    ),
    "a layer's weights missing": (
        reweigh(lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
        "lacks weights its architecture needs: model.layers.1.mlp.up_proj.weight",
    ),
    "tokenizer missing": (remove("tokenizer.json"), "cannot be loaded"),
    "tokenizer garbage": (write("tokenizer.json", b"{}"), "cannot be loaded"),
    "tokenizer configuration garbage": (write("tokenizer_config.json", b"["), "cannot be loaded"),
    "template binary": (write("chat_template.jinja", b"\xff\xfe"), "cannot be loaded"),
}
BROKEN_ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "config garbage": (write("adapter_config.json", b"{"), "is not an adapter's configuration"),
    "config a list": (write("adapter_config.json", b"[]"), "is not an adapter's configuration"),
    "no base": (edit("adapter_config.json", base_model_name_or_path=None), "does not say which model"),
    "base missing": (
        edit("adapter_config.json", base_model_name_or_path="/no/where"),
        "/no/where does not exist",
    ),
    "unknown kind": (edit("adapter_config.json", peft_type="BANANA"), "BANANA"),
    "another rank": (edit("adapter_config.json", r=9), "cannot be loaded"),
    "weights missing": (remove("adapter_model.safetensors"), "holds no adapter_model.safetensors"),
    "weights garbage": (write("adapter_model.safetensors", b"x" * 100), "cannot be loaded"),
    "pickle only": (as_pickle("adapter_model.safetensors"), "model.bin, a pickle"),
    "head missing": (
        reweigh(lambda w: w.pop("base_model.model.score.weight"), "adapter_model.safetensors"),
        "score.weight",
    ),
}


@pytest.mark.parametrize("case", list(BROKEN_MODELS))
def test_a_broken_model_folder_is_a_model_error_that_names_it(case: str, saved: Path) -> None:
    damage, words = BROKEN_MODELS[case]
    damage(saved)
    with pytest.raises(ModelError, match=words) as caught:
        load(saved)
    assert str(saved) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("case", list(BROKEN_ADAPTERS))
def test_a_broken_adapter_is_a_model_error(case: str, adapter: Path) -> None:
    damage, words = BROKEN_ADAPTERS[case]
    damage(adapter)
    with pytest.raises(ModelError, match=words):
        load(adapter)


def test_code_in_a_model_folder_is_not_run_unless_it_is_trusted(saved: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    (saved / "evil.py").write_text(f"open({str(witness)!r}, 'w').close()\nclass EvilConfig: pass\n")
    edit("config.json", model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"})(saved)
    with pytest.raises(HoldtrueError):
        load(saved)
    assert not witness.exists()
    with pytest.raises(HoldtrueError):  # the code runs now, but is no configuration
        store.load(ModelSettings(path=str(saved)), trust_remote_code=True)
    assert witness.exists()


@pytest.mark.parametrize("path", ["/no/such/model", "./no/such/model", "~/no/such/model"])
def test_a_missing_path_is_said_without_asking_a_hub(path: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load(Path(path)) if path.startswith("/") else store.load(ModelSettings(path=path))


def test_lora_on_modules_that_are_not_there_is_an_error(base_model: Make) -> None:
    with pytest.raises(ModelError, match="LoRA cannot be applied"):
        load(base_model(), lora=LoraSettings(target_modules=["nothing"]))


def test_an_untrained_model_is_not_scored_with(base_model: Make, saved: Path) -> None:
    with pytest.raises(ModelError, match="has no reward head"):
        store.load_trained(base_model("fresh"))
    assert not store.load_trained(saved).fresh_head


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card = RewardCard(
        base_model="ö/base",
        template={"name": "plain", "sha256": "0"},
        pooled={"policy": "last", "id": 1, "share": 0.5},
        max_length=77,
        truncation="left",
        loss={"kind": "bradley_terry", "center": 0.01},
        calibration={"temperature": 1.5},
        reward={"mean": -0.1, "std": 2.0, "count": 3},
        lengths={"50%": 10},
        data={"a.jsonl": "ff"},
    )
    card.write(tmp_path)
    assert read_card(tmp_path) == card
    assert read_card(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ('{"max_lenght": 3}', "did you mean 'max_length'"),
        ('{"max_length": "x"}', "max_length is 'x'"),
        ('{"max_length": -5}', "max_length"),
        ('{"truncation": "banana"}', "truncation"),
        ('{"template": null}', "template is None"),
        ('{"kind": "scalar"}', "kind is 'scalar', expected an object; .*train or save the model again"),
        ('{"kind": {"kind": "banana"}}', "reward_card.json: unknown kind 'banana'; .*save the model again"),
        ('{"kind": {"kind": "scalar", "old": 1}}', "unknown field of scalar 'old'; there are none; .*again"),
        ('{"old": 1}', "unknown field of .*reward_card.json 'old'.*train or save the model again"),
    ],
)
def test_a_card_that_makes_no_sense_is_a_data_error(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "reward_card.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_card(tmp_path)


def test_a_copied_folder_is_still_the_same_model(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "elsewhere" / "copy")
    assert np.array_equal(rewards(load(tmp_path / "elsewhere" / "copy")), rewards(load(saved)))


def test_what_is_no_model_folder_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a model folder"):
        load(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(ModelError, match="is a file; a model is a folder"):
        load(tmp_path / "rows.jsonl")
