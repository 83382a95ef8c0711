"""Fixtures many rooms share: where the real data is, a tokenizer, a saved tiny decoder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Busy machines draw slowly, and a folder may be written to again and again.
TOLERATED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("holdtrue", deadline=None, suppress_health_check=TOLERATED)
settings.load_profile("holdtrue")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # for the toy they share with the tests

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a real file or folder; the test is skipped where it is not at hand."""
    root = Path(os.environ.get("HOLDTRUE_SHARED", Path(__file__).parents[2] / "shared"))

    def find(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"{root / name} is not at hand; set HOLDTRUE_SHARED")
        return root / name

    return find


@pytest.fixture
def byte_tokenizer() -> Callable[..., Any]:
    """Makes a ChatML tokenizer of one token per byte; turns begin with 0 and end with 1, padding is 2."""

    def make(**options: Any) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        padding = [] if "pad_token" in options and options["pad_token"] is None else ["<|pad|>"]
        symbols = ["<|im_start|>", "<|im_end|>", *padding, *alphabet]
        vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        defaults = {
            "pad_token": "<|pad|>",
            "eos_token": "<|im_end|>",
            "additional_special_tokens": ["<|im_start|>"],
            "chat_template": CHATML,
            "model_max_length": 512,
        }
        values = {key: value for key, value in (defaults | options).items() if value is not None}
        return PreTrainedTokenizerFast(tokenizer_object=backend, **values)

    return make


@pytest.fixture
def base_model(tmp_path: Path, byte_tokenizer: Callable[..., Any]) -> Callable[..., Path]:
    """Saves a tiny random causal LM with its tokenizer and returns the folder."""

    def make(name: str = "base", model_type: str = "llama", tokenizer: Any = None, **changes: Any) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        values = {
            "vocab_size": 259,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": 2,
            "bos_token_id": None,
            "eos_token_id": 1,
        }
        if model_type == "gpt2":
            values = {"vocab_size": 259, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
            values |= {"bos_token_id": 1, "eos_token_id": 1}
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **{**values, "initializer_range": 0.2, **changes})
        folder = tmp_path / name
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        (tokenizer or byte_tokenizer()).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model``, 60 pairs in ``train.jsonl``, 20 in ``eval.jsonl``; not to be changed."""
    import toy

    folder = tmp_path_factory.mktemp("toy")
    toy.write_model(folder / "model")
    toy.write_pairs(folder / "train.jsonl", 60)
    toy.write_pairs(folder / "eval.jsonl", 20, seed=1)
    return folder


@pytest.fixture(scope="session")
def toy_run(toy_folder: Path) -> Path:
    """A finished run on the toy data; not to be changed (copy it)."""
    from holdtrue import job
    from holdtrue.settings import build

    data = {"train": [str(toy_folder / "train.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]}
    settings = build({"data": data, "model": {"path": str(toy_folder / "model")}})
    run = job.start(settings, toy_folder / "run")
    job.train(run)
    return run.path
