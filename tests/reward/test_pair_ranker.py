"""An encoder read at three markers scores two candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import comparing
from comparing import group
from holdtrue.errors import ModelError, SettingsError
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.kinds.pair_ranker import PairRanker
from holdtrue.reward.pair_ranker import HEAD
from holdtrue.reward.verify import verify
from holdtrue.settings import LoraSettings, ModelSettings
from holdtrue.tokens import joint

GROUPS = [group("kind and warm", "rude"), group("the answer is so clear", "cold", prompt="tell about bees ?")]


def load(folder: Path, **options: Any) -> store.Loaded:
    options = {"kind": "pair_ranker"} | options
    return store.load(ModelSettings(path=str(folder), **options), seed=3)


def sequences(loaded: store.Loaded) -> list[Any]:
    asked = [(g, [(0, 1), (1, 0)]) for g in GROUPS]
    return [ids for item in loaded.encoder().encode(asked) for ids in item.ids]  # type: ignore[arg-type]


def gaps(loaded: store.Loaded, sequences: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        out = loaded.model(loaded.model.batch([joint.plant(sequences)]))
    assert out.gap is not None
    gap: torch.Tensor = out.gap
    return gap


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return comparing.write(tmp_path / "base", "bert")


def test_the_gap_is_the_difference_of_both_candidates_scores() -> None:
    out = PairRanker().read(torch.tensor([[0.4, -0.1]]), torch.zeros(1, 1), torch.ones(1))
    assert out.gap is not None
    assert torch.nn.functional.softplus(-out.gap).item() == pytest.approx(0.474077, abs=1e-6)


def test_each_candidate_is_scored_from_its_marker_and_the_sources(base: Path) -> None:
    loaded = load(base)
    asked = sequences(loaded)
    markers = loaded.tokenizer.convert_tokens_to_ids(list(joint.MARKERS))
    score = loaded.model.classifier.score
    expected = []
    for ids in asked:
        with torch.no_grad():
            hidden = loaded.model.backbone(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0]
            source, one, two = (hidden[ids.tolist().index(marker)] for marker in markers)
            sides = [score[4](torch.tanh(score[1](torch.cat([source, h])))) for h in (one, two)]
        expected.append(float(sides[0] - sides[1]))
    found = gaps(loaded, asked)
    assert found.tolist() == pytest.approx(expected, abs=1e-5) and found.std() > 1e-3


def test_dropout_is_in_the_head_when_it_is_switched_on(base: Path) -> None:
    loaded = load(base, kind={"kind": "pair_ranker", "dropout": 0.5})
    asked = sequences(loaded)
    assert torch.equal(gaps(loaded, asked), gaps(loaded, asked))
    loaded.model.classifier.score.train()
    assert not torch.equal(gaps(loaded, asked), gaps(loaded, asked))


def test_it_is_saved_with_its_head_and_loaded_bit_for_bit(base: Path, tmp_path: Path) -> None:
    loaded = load(base)
    assert loaded.fresh_head
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    store.save(loaded, tmp_path / "saved", RewardCard(max_length=100))
    assert set(load_file(tmp_path / "saved" / HEAD)) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    again = store.load_trained(tmp_path / "saved")
    asked = sequences(loaded)
    assert [list(ids) for ids in sequences(again)] == [list(ids) for ids in asked]
    assert torch.equal(gaps(loaded, asked), gaps(again, asked))
    assert {check.name: check for check in verify(tmp_path / "saved") if check.status == "fail"} == {}


def test_a_seed_makes_the_same_head_and_markers(base: Path) -> None:
    one, other = load(base), load(base)
    for left, right in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_saved_model_without_its_head_is_refused(base: Path, tmp_path: Path) -> None:
    store.save(load(base), tmp_path / "saved", RewardCard())
    (tmp_path / "saved" / HEAD).unlink()
    with pytest.raises(ModelError, match=r"lacks head\.safetensors"):
        store.load_trained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("family", "message"), [("llama", "needs an encoder, for decoders"), ("t5", "is an encoder-decoder")]
)
def test_only_encoders_are_taken(tmp_path: Path, family: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(comparing.write(tmp_path / "base", family))


def test_adapters_are_refused(base: Path) -> None:
    with pytest.raises(SettingsError, match=r"model\.lora is not for pair_ranker"):
        load(base, lora=LoraSettings())


@pytest.mark.parametrize("model_type", ["roberta", "deberta-v2", "distilbert", "electra"])
def test_encoders_of_the_field_agree_alone_and_in_a_batch(tmp_path: Path, model_type: str) -> None:
    from transformers import AutoConfig, AutoModel

    folder = tmp_path / model_type
    tokenizer = comparing.tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    if model_type == "distilbert":
        sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
    if model_type == "electra":
        sizes["embedding_size"] = 32
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, vocab_size=len(tokenizer), max_position_embeddings=140, pad_token_id=0, **sizes
    )
    AutoModel.from_config(config).save_pretrained(folder)
    loaded = load(folder)
    asked = sequences(loaded)
    alone = torch.cat([gaps(loaded, [ids]) for ids in asked])
    assert gaps(loaded, asked) == pytest.approx(alone, abs=1e-5) and alone.std() > 1e-5
