"""Training of the gate on comparisons, backbone and aspects frozen (ArmoRM, arXiv 2406.12845, section 3.2).

    loss = -log σ(Σ_k g_k(prompt) · (a_k of the first answer - a_k of the second))          [nats]

AdamW, its rate falling along a cosine. Where comparisons were held out, the weights of the best of eleven
validations stay, the first of which is before any step: a gate that does not help stays near 1 / K.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdtrue.losses.bradley_terry import logistic
from holdtrue.reward.gate import Gate
from holdtrue.reward.kinds.aspects import GateSettings
from holdtrue.tokens.batches import targets_of
from holdtrue.tokens.tree import Tree

_VALIDATIONS = 10


@dataclass(frozen=True)
class Compared:
    """B comparisons of N answers, with aspects (N, K) as they count in the reward.

    ``prompts`` (P, D) are different from each other, and ``asked`` (N,) is the row of each answer's.
    """

    aspects: Tensor
    prompts: Tensor
    asked: Tensor
    first: Tensor
    second: Tensor
    label: Tensor
    weight: Tensor

    @classmethod
    def of(cls, trees: Sequence[Tree], aspects: Tensor, prompts: Tensor) -> Compared:
        """The trees' comparisons; rows of ``aspects`` and ``prompts`` (N, D) are their answers in order."""
        said = targets_of(trees, aspects.device)
        different, asked = prompts.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
        return cls(aspects, different, asked, said.first, said.second, said.label, said.weight)

    def gaps(self, gate: Gate, rows: Tensor) -> Tensor:
        """How much the first answer of each of these comparisons is ahead."""
        first, second = self.first[rows], self.second[rows]
        answers = torch.cat([first, second])
        # dropout is drawn per prompt
        prompts, of_answers = self.asked[answers].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        rewards: Tensor = (gate(self.prompts[prompts])[of_answers] * self.aspects[answers]).sum(1)
        return rewards[: len(rows)] - rewards[len(rows) :]


def train(
    gate: Gate,
    settings: GateSettings,
    compared: Compared,
    held_out: Compared | None,
    *,
    seed: int,
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train the gate; returns the steps, the step whose weights stayed and what it measured."""
    count, every = len(compared.first), max(1, settings.steps // _VALIDATIONS)
    optimizer = torch.optim.AdamW(gate.parameters(), lr=settings.learning_rate)
    draw = torch.Generator().manual_seed(seed)
    best: dict[str, Any] = {}
    kept = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(settings.steps + 1):
            if held_out is not None and (step % every == 0 or step == settings.steps):
                found = {"step": step, **measure(gate, held_out)}
                tell({"event": "eval", "epoch": None, **found})
                if not best or found["loss"] < best["loss"]:
                    best, kept = found, {name: value.clone() for name, value in gate.state_dict().items()}
            if step == settings.steps:
                break
            rows = torch.arange(count)
            if count > settings.batch_size:
                rows = torch.randint(count, (settings.batch_size,), generator=draw)
            gate.train()
            loss = _loss(compared, gate, rows.to(compared.first.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.param_groups[0]["lr"] = (
                settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
            )
            optimizer.step()
    if kept:
        gate.load_state_dict(kept)
    gate.eval()
    return {"comparisons": count, "steps": settings.steps, "best": best or None}


@torch.no_grad()
def measure(gate: Gate, compared: Compared) -> dict[str, Any]:
    """Loss in nats, and accuracy over decided comparisons, equal rewards counting half."""
    gate.eval()
    rows = torch.arange(len(compared.first), device=compared.first.device)
    gap, preferred = compared.gaps(gate, rows), (compared.label - 0.5).sign()
    decided = preferred != 0
    right = ((gap * preferred).sign() + 1)[decided] / 2
    return {
        "loss": float(_loss(compared, gate, rows)),
        "accuracy": float(right.mean()) if len(right) else None,
        "count": len(right),
        "answers": len(compared.asked),
    }


def _loss(compared: Compared, gate: Gate, rows: Tensor) -> Tensor:
    gap, label, weight = compared.gaps(gate, rows), compared.label[rows], compared.weight[rows]
    return (logistic(gap, label) * weight).sum() / weight.sum().clamp_min(1e-12)
