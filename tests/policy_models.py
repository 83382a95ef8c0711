"""Tiny random policies of several families."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from families import _SIZES, FAMILIES

SHARING = [
    "llama",
    "qwen2",
    "qwen2, sliding window",
    "gpt2",
    "gemma2, soft cap, sliding window",
    "gemma3 text, sliding window",
]
"""Families whose prompts can be computed once for several answers."""


def policy(name: str, **changes: Any) -> Any:
    """A policy of 97 ids that ends with id 2; equal weights for equal names."""
    values = {**_SIZES, **FAMILIES[name], **changes}
    if values["model_type"] == "gpt2":
        values |= {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            values.pop(key)
    config = AutoConfig.for_model(
        values.pop("model_type"), **values, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return model.eval()
