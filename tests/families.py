"""Tiny random decoders of every family, and what plain transformers makes of them, one sequence at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from holdtrue.reward.model import RewardModel
from holdtrue.tokens.tree import Tree, grow

WINDOW = 8
_SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "eager"}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]

TREE_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "qwen2": {"model_type": "qwen2"},
    "qwen2, sliding window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "mistral, sliding window": {"model_type": "mistral", "sliding_window": WINDOW},
    "gemma2, soft cap, sliding window": {
        "model_type": "gemma2",
        "head_dim": 16,
        "attn_logit_softcapping": 2.0,
        "sliding_window": WINDOW,
        "layer_types": _SLIDING,
    },
    "gemma3 text, sliding window": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": _SLIDING,
    },
    "phi3": {"model_type": "phi3"},
    "phi3, sliding window": {"model_type": "phi3", "sliding_window": WINDOW},
    "gpt2": {"model_type": "gpt2", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt neox": {
        "model_type": "gpt_neox",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "classifier_dropout": 0.0,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, **_EXPERTS},
    "mixtral, sliding window": {
        "model_type": "mixtral",
        "num_local_experts": 4,
        "sliding_window": WINDOW,
        **_EXPERTS,
    },
    "qwen2 moe": {
        "model_type": "qwen2_moe",
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 24,
        **_EXPERTS,
    },
}
PADDED_FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": {"model_type": "bloom", "n_layer": 3, "n_head": 4, "hidden_dropout": 0.0}
}
FAMILIES = TREE_FAMILIES | PADDED_FAMILIES


def classifier(
    name: str, attention: str | None = None, dtype: torch.dtype = torch.float32, **changes: Any
) -> Any:
    """The family's classifier; equal weights for equal names, spread so that attention matters."""
    values = {**_SIZES, **FAMILIES[name], **changes}
    experts = values.pop("experts_implementation", None)
    if values["model_type"] == "gpt2":
        values |= {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            values.pop(key)
    config = AutoConfig.for_model(
        values.pop("model_type"), **values, num_labels=1, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    options = {"experts_implementation": experts} if experts else {}
    model = AutoModelForSequenceClassification.from_config(
        config, attn_implementation=attention, dtype=dtype, **options
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return model.eval()


def reward_model(name: str, **changes: Any) -> RewardModel:
    """Ours, in the layout it finds exact."""
    model = RewardModel(classifier(name, **changes), pad_id=0)
    model.examine()
    return model.eval()


def sequence(seed: int, length: int) -> np.ndarray:
    """Token ids that are no special tokens."""
    return np.random.default_rng(seed).integers(3, 97, length).astype(np.int32)


def split(prompt: int, answers: list[int], seed: int) -> Tree:
    """A tree with a prompt and answers of these lengths, whatever their ids have in common."""
    made = grow([sequence(seed + i, 2) for i in range(len(answers))])
    leaves = tuple(sequence(seed + 2 + i, n) for i, n in enumerate(answers))
    return replace(made, prompt=sequence(seed, prompt), answers=leaves)


def forest_of_all_shapes() -> list[Tree]:
    """K = 1, 2, 3 and 8; prompts empty, short and longer than the window; answers of one token and long."""
    start = sequence(1, 12)
    return [
        split(2 * WINDOW + 3, [5, 4], 10),
        grow([sequence(20, 7)]),
        split(3, [6] * 8, 30),  # joint mask mostly empty: split by answer
        split(0, [5, 1, 9], 50),
        split(WINDOW + 1, [WINDOW + 4, 1], 60),
        split(6, [1], 70),
        split(2, [2 * WINDOW + 2, 3], 80),
        split(11, [9, 3, 12, 5, 7, 4, 10, 6], 90),
        grow([start, start[:8], np.concatenate([start, sequence(2, 3)])]),  # each begins another
    ]


def sequences_of(trees: list[Tree]) -> list[np.ndarray]:
    """What stands in the trees, written out in full, in the order of their rewards."""
    return [np.concatenate([tree.prompt, answer]) for tree in trees for answer in tree.answers]


def coefficients(count: int) -> Tensor:
    """Fixed weights of the rewards in the scalar whose gradient is compared."""
    return torch.randn(count, generator=torch.Generator().manual_seed(5))


@cache
def reference(
    name: str, dtype: torch.dtype = torch.float32, attention: str = "eager"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rewards of the forest's sequences and gradients of their weighted sum, by plain transformers."""
    model = classifier(name, attention, dtype)
    sequences = sequences_of(forest_of_all_shapes())
    weights = coefficients(len(sequences)).to(dtype)
    rewards = []
    for ids, weight in zip(sequences, weights, strict=True):
        reward = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0, 0]
        (weight * reward).backward()
        rewards.append(reward.detach())
    gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    return torch.stack(rewards), gradients


def reward_error(rewards: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest reward."""
    rewards, expected = rewards.detach().double(), expected.detach().double()
    return float((rewards - expected).abs().max() / expected.abs().max())


def gradient_error(model: torch.nn.Module, expected: dict[str, Tensor]) -> float:
    """Largest ‖g - g'‖ / ‖g'‖ over the weights.

    Where g' vanishes, as for biases of keys, a thousandth of the largest ‖g'‖ takes its place.
    """
    floor = max(float(g.norm()) for g in expected.values()) / 1000
    found = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    assert found.keys() == expected.keys()
    return max(
        float((found[key].double() - g.double()).norm()) / max(float(g.norm()), floor)
        for key, g in expected.items()
    )
