"""The gradient step of losses whose items depend on each other: each is given the whole step at once.

A batch-wise loss (RMSE, sum-to-zero, ODIN's correlations) cut into passes or ranks would be another loss.
So what the model gives is computed first for all passes of all processes without a graph and gathered;
the loss and its gradient are taken there; then each pass is computed once more and that gradient sent
through it (the idea of GradCache, arXiv 2101.06983). A single pass of a single process is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from functools import partial, reduce
from operator import add
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from holdtrue.losses import Loss, LossTerms
from holdtrue.reward.model import Batch, RewardModel, RewardOutput
from holdtrue.tokens.batches import Targets
from holdtrue.training.distributed import World
from holdtrue.training.step import GradientStep, Sums, measure, plain


def gradient_step(loss: Loss, world: World) -> GradientStep:
    """The step a loss needs: pass by pass, or over the whole step where its items are coupled."""
    return partial(whole, world=world) if loss.coupled else plain


def whole(model: RewardModel, loss: Loss, batches: Iterable[Batch], world: World) -> Sums:
    """Gradient of a coupled loss over all batches of all processes; the sums are this process's share."""
    passes = list(batches)
    if len(passes) == 1 and world.size == 1:
        return plain(model, loss, passes)
    states = []
    outs = []
    with torch.no_grad():
        for batch in passes:
            states.append(random_state(model))
            outs.append(model(batch))
    joined, targets, first = _gather(outs, passes, world)
    read = {name: getattr(joined, name).requires_grad_() for name in loss.reads}
    total, sums = _share(loss(replace(joined, **read), targets), world)
    found = torch.autograd.grad(total, list(read.values()))
    gradients = dict(zip(read, found, strict=True))
    for batch, state, out in zip(passes, states, outs, strict=True):
        restore_random_state(model, state)
        again = model(batch)
        parts = []
        for name, gradient in gradients.items():
            rows = getattr(again, name)
            parts.append((rows * gradient[first[name] : first[name] + len(rows)]).sum())
            first[name] += len(rows)
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
        sums.add(measure(out, batch, None))
    return sums


@torch.no_grad()
def evaluate(model: RewardModel, loss: Loss, batches: Iterable[Batch], world: World) -> Sums:
    """What :func:`whole` or :func:`plain` would sum, without gradients."""
    sums = Sums()
    passes, outs = [], []
    for batch in batches:
        out = model(batch)
        sums.add(measure(out, batch, None if loss.coupled else loss(out, batch.targets)))
        if loss.coupled:
            passes.append(batch)
            outs.append(out)
    if loss.coupled:
        joined, targets, _ = _gather(outs, passes, world)
        sums.add(_share(loss(joined, targets), world)[1].values())
    return sums


def _share(terms: LossTerms, world: World) -> tuple[Tensor, Sums]:
    """The loss of the whole step, and what of it and its weight this process counts as its own."""
    total = (terms.terms * terms.weights).sum()
    return total, Sums(total.item() / world.size, terms.weights.sum().item() / world.size)


def _gather(
    outs: Sequence[RewardOutput], passes: Sequence[Batch], world: World
) -> tuple[RewardOutput, Targets, dict[str, int]]:
    """Outputs and targets of all processes end to end, and where this process's begin in each field."""
    own = _join(outs), reduce(add, [batch.targets for batch in passes])
    everyone = [own]
    if world.size > 1:
        everyone = [own] * world.size
        dist.all_gather_object(everyone, _moved(own, "cpu"))
        everyone = [_moved(item, world.device) for item in everyone]
    before = [out for out, _ in everyone[: world.rank]]
    first = {
        field.name: sum(len(getattr(out, field.name)) for out in before)
        for field in fields(RewardOutput)
        if getattr(own[0], field.name) is not None
    }
    return _join([out for out, _ in everyone]), reduce(add, [said for _, said in everyone]), first


def _join(outs: Sequence[RewardOutput]) -> RewardOutput:
    columns = {}
    for field in fields(RewardOutput):
        parts = [getattr(out, field.name) for out in outs]
        if parts[0] is not None and field.name != "offsets":
            columns[field.name] = torch.cat(parts)
    return RewardOutput(**columns)


def _moved(item: tuple[RewardOutput, Targets], device: str) -> tuple[RewardOutput, Targets]:
    out, targets = item
    return _on(out, device), _on(targets, device)


def _on(columns: Any, device: str) -> Any:
    values = {field.name: getattr(columns, field.name) for field in fields(columns)}
    return type(columns)(**{n: v.to(device) if isinstance(v, Tensor) else v for n, v in values.items()})


def random_state(model: RewardModel) -> Tensor:
    """What the next dropout masks depend on."""
    return torch.cuda.get_rng_state() if model.device.type == "cuda" else torch.get_rng_state()


def restore_random_state(model: RewardModel, state: Tensor) -> None:
    """So that dropout falls as it did when the outputs were gathered."""
    if model.device.type == "cuda":
        torch.cuda.set_rng_state(state)
    else:
        torch.set_rng_state(state)
