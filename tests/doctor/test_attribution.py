"""Which checkpoint says a loop, on tiny models that were, and were not, taught one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from holdtrue.doctor.attribution import attribute
from holdtrue.doctor.rollouts import examine
from holdtrue.errors import DataError, ModelError
from holdtrue.records import Rollout

TEXT = "The lake lies between two hills." + " na" * 60


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Path]:
    """``reference`` has random weights, ``current`` was trained on the loop."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE(vocab={symbol: i for i, symbol in enumerate(["<end>", *alphabet])}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(config)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("reference", "current")}
    for folder in folders.values():
        tokenizer.save_pretrained(folder)
    model.save_pretrained(folders["reference"])
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(folders["current"])
    return folders


def rows(**columns: Any) -> Any:
    return examine([Rollout("Tell me of the lake.", TEXT, **columns)] * 3).rows


def test_a_loop_that_training_taught_is_the_current_checkpoints(models):
    found = attribute(rows(), models)
    assert found.severity == "fail"
    assert "training taught it" in found.why
    # a random model gives each of 257 ids about the same probability
    reference = found.values["mean_logprob"]["reference"]
    assert reference[0] == pytest.approx(-5.55, abs=0.3)
    assert found.values["mean_logprob"]["current"][0] > -1
    assert len(reference) == 5


def test_a_loop_that_both_say_alike_is_not_blamed_on_training(models):
    found = attribute(rows(), {"reference": models["current"], "current": models["current"]})
    assert (found.severity, found.values["gain"]) == ("ok", 0.0)
    assert "start checkpoint" in found.why


def test_where_no_model_would_have_said_it_no_conclusion_is_drawn(models):
    found = attribute(rows(), {"first": models["reference"], "second": models["reference"]})
    # a random model gives each of 257 ids about 1/257 = 0.0039
    assert "first: 0.00" in found.evidence and "0.000" not in found.evidence
    assert found.severity == "ok"
    assert found.why == "none of first, second wrote this: all find it most unlikely."
    assert "checkpoint that sampled these rollouts" in found.fix


def test_what_cannot_be_attributed_is_said(models, tmp_path):
    with pytest.raises(DataError, match="two checkpoints"):
        attribute(rows(), {"current": models["current"]})
    with pytest.raises(DataError, match="no row has a loop"):
        attribute(examine([Rollout("?", "Fine.")]).rows, models)
    with pytest.raises(ModelError, match="cannot be loaded"):
        attribute(rows(), {"reference": models["reference"], "current": tmp_path})
