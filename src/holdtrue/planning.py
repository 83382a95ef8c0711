"""The plan of a run: what would be read, dropped, computed and needed, before it is paid for.

Time and memory come from a short probe: a few real passes of the real model on the data's longest and
typical batches.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Any

import torch

from holdtrue.errors import DataError
from holdtrue.records import Group
from holdtrue.reward import store
from holdtrue.reward.card import READS
from holdtrue.reward.pools import Pool
from holdtrue.settings import Settings
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.joint import JointEncoder
from holdtrue.tokens.tree import Tree
from holdtrue.training import coupled, loop, order, step
from holdtrue.training.distributed import World, default_device
from holdtrue.training.preparation import length_quantiles
from holdtrue.training.setup import Setup, set_up

_PROBED_TOKENS = 20_000


@dataclass(frozen=True)
class Probe:
    """Measured speed (unique tokens per second) and peak growth of memory (bytes) of training passes."""

    tokens_per_second: float
    activation_bytes: int


def plan(settings: Settings, trust_remote_code: bool = False) -> dict[str, Any]:
    """Everything ``holdtrue plan`` says, as plain values.

    Raises:
        DataError: nothing usable is left. SettingsError, ModelError: as in training.
    """
    setup = set_up(settings, default_device(), trust_remote_code=trust_remote_code)
    model, trees = setup.loaded.model, setup.train.trees
    counts = [tree.count(settings.loss.unit) for tree in trees]
    steps = order.steps(counts, settings.training, settings.training.processes, settings.seed)
    if settings.training.method == "ridge":  # which reads them once
        steps = []
        tokens = sum(tree.tokens for tree in trees)
    else:
        tokens = sum(trees[i].tokens for s in steps for i in s.trees)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "gradients": 4 * trainable,
        "optimizer": 8 * trainable,
    }
    probe = measure(setup)
    memory["activations"] = probe.activation_bytes
    return {
        "model": setup.describe(),
        "data": setup.counts,
        "lengths": length_quantiles(setup.train.lengths),
        "steps": len(steps),
        "comparisons_per_step": settings.training.comparisons_per_step(settings.training.processes),
        "memory_bytes": memory | {"total": sum(memory.values())},
        "tokens": tokens,
        "tokens_per_second": round(probe.tokens_per_second, 1),
        "seconds": round(tokens / probe.tokens_per_second, 1),
        "example": example(setup.encoder, setup.train.groups, setup.loaded.model.pool),
    }


def measure(setup: Setup) -> Probe:
    """Train-shaped passes (forward and backward, no update) over the longest trees and some typical ones."""
    settings, loaded = setup.settings, setup.loaded
    by_size = sorted(setup.train.trees, key=lambda tree: tree.tokens, reverse=True)
    budget = settings.training.tokens_per_pass(loaded.model.device.type, loaded.model.layout)
    before = _peak_memory(loaded)
    step.plain(
        loaded.model, settings.loss, loop.batches(loaded.model, _take(by_size, budget), settings.training)
    )
    grown = max(_peak_memory(loaded) - before, 0)
    loaded.model.zero_grad(set_to_none=True)
    typical = _take(by_size[:: max(1, len(by_size) // 64)], _PROBED_TOKENS)
    started = time.perf_counter()
    gradient_step = coupled.gradient_step(settings.loss, World())
    gradient_step(loaded.model, settings.loss, loop.batches(loaded.model, typical, settings.training))
    seconds = time.perf_counter() - started
    loaded.model.zero_grad(set_to_none=True)
    return Probe(sum(tree.tokens for tree in typical) / seconds, grown)


def example(encoder: Encoder | JointEncoder, groups: list[Group], pool: Pool) -> dict[str, Any]:
    """The first conversation of a group that fits, as the model reads it, with the token that is read.

    For encoders, which read no single token, that is ``None``. Of models that compare, the first comparison;
    ``answer_tokens`` are then all of it.
    """
    if not isinstance(encoder, Encoder):
        asked = [(group, [(c.first, c.second)]) for group in groups for c in group.comparisons]
        whole = next(ids for item in encoder.encode(asked) for ids in item.ids if ids is not None)
        return {
            "text": encoder.tokenizer.decode(whole[:-1]),
            "read_token": encoder.tokenizer.convert_ids_to_tokens(int(whole[-1])),
            "tokens": len(whole),
            "answer_tokens": [0, len(whole)],
        }
    for group in groups:
        encoded = next(encoder.encode([group]))
        ids = encoded.ids[0]
        if ids is None or any(other is None for other in encoded.ids):
            continue
        start, end = encoder.answer_span(group, 0) if not encoded.cut[0] else (0, len(ids))
        return {
            "text": encoder.tokenizer.decode(ids[:-1] if pool == "last" else ids),
            "read_token": encoder.tokenizer.convert_ids_to_tokens(int(ids[-1])) if pool == "last" else None,
            "read": READS[pool],
            "tokens": len(ids),
            "answer_tokens": [start, end],
        }
    raise DataError("no conversation fits")


def _take(trees: list[Tree], budget: int) -> list[Tree]:
    taken, tokens = [trees[0]], trees[0].tokens
    for tree in trees[1:]:
        if tokens + tree.tokens > budget:
            break
        taken.append(tree)
        tokens += tree.tokens
    return taken


def _peak_memory(loaded: store.Loaded) -> int:
    if loaded.model.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
