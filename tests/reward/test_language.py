"""Log-probabilities of answers' tokens are those of the causal LM, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

import families
from holdtrue import job
from holdtrue.errors import ModelError
from holdtrue.reward import causal, store
from holdtrue.reward.language import CHUNK, language_head
from holdtrue.reward.model import RewardModel
from holdtrue.settings import ModelSettings, build
from holdtrue.tokens.batches import lay_out, pad
from holdtrue.tokens.tree import Tree

Make = Callable[..., Path]
MODELS: dict[str, dict[str, Any]] = {
    "own matrix": {"model_type": "llama", "tie_word_embeddings": False},
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2"},
    "soft cap": {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 1.5},
}
every = pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)


def trees() -> list[Tree]:
    """Answers of one token and of many; a prompt of nothing; one tree longer than a chunk of logits."""
    return [
        families.split(6, [5, 1, 3], 10),
        families.split(0, [4, 2], 20),
        families.split(3, [CHUNK // 2 + 9, CHUNK // 2], 30),
    ]


def loaded(folder: Path) -> RewardModel:
    found = store.load(ModelSettings(path=str(folder), kind="language"))
    causal.keep_language_head(found)
    assert found.model.layout == "tree"
    return found.model


def by_causal_lm(folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """Of every answer token, one sequence at a time, and the gradient of their sum."""
    causal = AutoModelForCausalLM.from_pretrained(folder).eval()
    parts = []
    for tree in trees():
        for answer in tree.answers:
            ids = torch.from_numpy(np.concatenate([tree.prompt, answer]).astype(np.int64))
            logprobs = causal(input_ids=ids[None]).logits[0].log_softmax(-1)
            told = logprobs[:-1].gather(1, ids[1:, None])[:, 0]
            nothing_before = told.new_zeros(0 if len(tree.prompt) else 1)
            parts.append(torch.cat([nothing_before, told])[-len(answer) :])
    found = torch.cat(parts)
    found.sum().backward()
    return found.detach(), {n: p.grad for n, p in causal.named_parameters() if p.grad is not None}


@every
def test_they_are_those_of_the_causal_lm_in_trees_and_padded_on_either_side(
    base_model: Make, changes: dict[str, Any]
) -> None:
    folder = base_model(**changes)
    model, (expected, _) = loaded(folder), by_causal_lm(folder)
    pad_id = model.pad_id
    with torch.no_grad():
        for batch in (lay_out(trees()), pad(trees(), pad_id), pad(trees(), pad_id, side="left")):
            torch.testing.assert_close(model(batch).logprobs, expected, rtol=1e-4, atol=2e-4)


@every
def test_so_are_their_gradients(base_model: Make, changes: dict[str, Any]) -> None:
    folder = base_model(**changes)
    model, (_, expected) = loaded(folder), by_causal_lm(folder)
    model(lay_out(trees())).logprobs.sum().backward()
    found = {n.removeprefix("classifier."): p.grad for n, p in model.named_parameters() if p.grad is not None}
    frozen = set(expected) - set(found)
    assert frozen == ({"lm_head.weight"} if changes.get("tie_word_embeddings") is False else set())
    for name, gradient in found.items():
        error = (gradient[: len(expected[name])] - expected[name]).abs().max()
        assert error < 1e-3 * expected[name].abs().max().clamp_min(1e-3), name


def test_rewards_are_the_same_with_and_without_the_head(base_model: Make) -> None:
    folder = base_model()
    plain = store.load(ModelSettings(path=str(folder))).model
    with torch.no_grad():
        one, other = plain(lay_out(trees())), loaded(folder)(lay_out(trees()))
    assert one.logprobs is None
    torch.testing.assert_close(other.rewards, one.rewards, rtol=1e-4, atol=1e-5)


def test_a_classifier_with_a_matrix_of_its_own_has_lost_its_language_head(base_model: Make) -> None:
    folder = base_model(tie_word_embeddings=False)
    found = store.load(ModelSettings(path=str(folder)))
    saved = folder.parent / "saved"
    found.model.classifier.save_pretrained(saved)
    found.tokenizer.save_pretrained(saved)
    with pytest.raises(ModelError, match=r"has no language head \(lm_head.weight\); start from the causal"):
        causal.keep_language_head(store.load(ModelSettings(path=str(saved), kind="language")))


def test_logits_that_are_scaled_are_refused() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = AutoConfig.for_model("cohere", vocab_size=9, logit_scale=0.0625, pad_token_id=0, **sizes)
    causal = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=r"scales its logits \(logit_scale\)"):
        language_head(causal, causal)


def test_a_regularised_run_does_not_depend_on_passes_and_saves_a_plain_scalar_model(
    toy_folder: Path, tmp_path: Path
) -> None:
    def run(name: str, max_tokens_per_pass: int) -> Any:
        values = {
            "data": {"train": [str(toy_folder / "train.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]},
            "model": {"path": str(toy_folder / "model"), "kind": "language"},
            "loss": {"kind": "lm_regularised", "alpha": 0.5},
            "training": {"max_steps": 3, "eval_steps": 1, "max_tokens_per_pass": max_tokens_per_pass},
        }
        started = job.start(build(values), tmp_path / name)
        job.train(started)
        return started

    many, few = run("many", 60), run("few", 8192)
    curves = [[row["loss"] for row in made.metrics()] for made in (many, few)]
    assert len(curves[0]) == 6 and curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert curves[0][-1] < curves[0][1]  # both on the validation pairs
    assert AutoModelForSequenceClassification.from_pretrained(few.model).score.out_features == 1
    again = store.load_trained(few.model).model
    assert again.kind.name() == "language" and again.language_head is None
