"""A small support desk: a random tiny decoder, noisy pairs, and answers of a "policy" to other prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from holdtrue.refresh.context import RefreshContext
from holdtrue.refresh.labels import by_reward
from holdtrue.reward import store
from holdtrue.reward.scorer import RewardScorer
from holdtrue.settings import ModelSettings, Settings, build
from holdtrue.worlds import lexicon
from holdtrue.worlds.support import true_reward
from refreshing import DESK, pairs

K = 3


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained decoder of the desk's words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from holdtrue.worlds.decoder import build_tokenizer

    folder = tmp_path_factory.mktemp("desk") / "base"
    tokenizer = build_tokenizer(lexicon.vocabulary())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def settings(desk: Path) -> Settings:
    training = {"max_steps": 6, "bf16": False, "train_batch_size": 8, "save_steps": 100}
    return build({"model": {"path": str(desk)}, "training": training})


@pytest.fixture
def make(desk: Path, settings: Settings, tmp_path: Path) -> Callable[..., RefreshContext]:
    """A context with everything in it; keywords replace parts of it."""

    def made(**values: Any) -> RefreshContext:
        rng = np.random.default_rng(0)
        shifted = DESK.groups(8, K, Random(7))
        known = pairs(32)
        whole: dict[str, Any] = {
            "settings": settings,
            "current": RewardScorer(store.load(ModelSettings(path=str(desk)), seed=5)),
            "pairs": known,
            "folder": tmp_path / f"refresh-{len(list(tmp_path.iterdir()))}",
            "seed": 3,
            "shifted": shifted,
            "shifted_log_ratios": [rng.normal(1, 1, K) for _ in shifted],
            "pair_log_ratios": [rng.normal(-1, 1, 2) for _ in known],
            "labeller": by_reward(true_reward),
            "budget": 6,
        }
        return RefreshContext(**whole | values)

    return made
