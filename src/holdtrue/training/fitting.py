"""``training.method: ridge``: the head in closed form on cached states, then penalties, then the gate.

The backbone is read once, and not at all where its states are in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdtrue.reward.gate import Gate
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.model import given
from holdtrue.rundir import RunDir, append_jsonl
from holdtrue.training import gating, ridge, verbosity
from holdtrue.training.preparation import Prepared
from holdtrue.training.setup import Setup
from holdtrue.training.states import StateCache

Row = dict[str, Any]


def fit(setup: Setup, run: RunDir, tell: Callable[[Row], None]) -> Row:
    """Fit the model's head, and what its kind has besides, and put them into it.

    Returns:
        ``aspects``: per aspect alpha, rated answers and the held-out error; ``states``: how many were
        computed and how many read from the cache; ``penalties``; ``gate``; ``seconds`` of states and fit.

    Raises:
        DataError: an aspect has nothing to learn from, or verbosity cannot be taken out.
    """
    settings, model = setup.settings, setup.loaded.model
    kind = model.kind
    assert isinstance(kind, Aspects)
    folder = Path(settings.ridge.states) if settings.ridge.states else run.path / "states"
    ratings = np.concatenate([tree.ratings for tree in setup.train.trees])
    prompts = [tree.key for tree in setup.train.trees for _ in tree.answers]
    started = time.perf_counter()
    cache = StateCache(model, folder, settings.training.tokens_per_pass(model.device.type))
    states = cache.answers(setup.train.trees)
    read = time.perf_counter()
    lines = ridge.fit(states.numpy(), ratings, prompts, kind.names, intercept=settings.ridge.intercept)
    _put(setup, lines)
    told: Row = {
        "aspects": {
            name: {
                "alpha": line.alpha,
                "fitted_on": line.count,
                "held_out": line.held_out,
                "held_out_mse": line.mse,
                "held_out_pearson": line.pearson,
            }
            for name, line in zip(kind.names, lines, strict=True)
        },
    }
    if kind.verbosity is not None and not kind.penalties:
        aspects = _aspects(setup, states).cpu().numpy()
        told["penalties"] = verbosity.penalties(aspects, kind.names, kind.verbosity)
        model.kind = model.kind.model_copy(update={"penalties": told["penalties"]})
    told["seconds"] = {"states": round(read - started, 3), "fit": round(time.perf_counter() - read, 3)}
    if setup.pairs is not None:
        told["gate"] = _fit_gate(setup, cache, run, tell)
    told["states"] = {"computed": cache.computed, "read": cache.read}
    return told


def _put(setup: Setup, lines: list[ridge.Fitted]) -> None:
    model = setup.loaded.model
    # an adapter keeps the head it began with beside the one that is read
    parts = {name: part for name, part in model.head.named_parameters() if "original_module" not in name}
    weights = torch.from_numpy(np.stack([line.weights for line in lines]))
    with torch.no_grad():
        for name, part in parts.items():  # a bias, of encoders, was that of other weights
            part.copy_(weights if name.endswith("weight") else torch.zeros_like(part))
    names = model.kind.labels
    intercepts = {name: line.intercept for name, line in zip(names, lines, strict=True)}
    fitted = intercepts if setup.settings.ridge.intercept else {}
    model.kind = model.kind.model_copy(update={"intercepts": fitted})


@torch.no_grad()
def _aspects(setup: Setup, states: Tensor) -> Tensor:
    """(N, K) aspects as the model now computes them."""
    model = setup.loaded.model
    hidden = states.to(model.device)
    return given(model.kind.read(model.head(hidden), hidden, torch.arange(len(hidden))).logits)


def _fit_gate(setup: Setup, cache: StateCache, run: RunDir, tell: Callable[[Row], None]) -> Row:
    model, kind = setup.loaded.model, setup.loaded.model.kind
    assert isinstance(kind, Aspects) and kind.gate is not None and setup.pairs is not None

    def compared(prepared: Prepared) -> gating.Compared:
        aspects = kind.without_verbosity(_aspects(setup, cache.answers(prepared.trees)))
        return gating.Compared.of(prepared.trees, aspects, cache.prompts(prepared.trees).to(model.device))

    def log(row: Row) -> None:
        append_jsonl(run.metrics_file, [row])
        tell(row)

    train, held_out = setup.pairs
    pairs = compared(train)
    others = compared(held_out) if held_out.trees else None
    started = time.perf_counter()
    gate = Gate(pairs.prompts.shape[1], len(kind.names), kind.gate, setup.settings.seed).to(model.device)
    told = gating.train(gate, kind.gate, pairs, others, seed=setup.settings.seed, tell=log)
    model.gate = gate
    return told | {"scale": float(gate.scale.detach()), "seconds": round(time.perf_counter() - started, 3)}
