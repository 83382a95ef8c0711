"""Gradient steps that the training loop is given in place of its own: MetaRM's, and that of L - λJ.

MetaRM looks ahead along the gradient of J, takes the loss's gradient there and applies it where it stood:

    θ' = θ + δ,   δ = ± c ∇J(θ)                      no optimiser is touched
    first order    g = ∇L(θ') = ∇L + c H_L ∇J + O(c²)
    second order   g = (I + c H_J) ∇L(θ')            H_J by central differences, c taken as constant

Source: arXiv 2405.00438, algorithm 1 (first order). Against the plain step the first order *lowers* J by
α c ∇JᵀH_L∇J to leading order: it is a contraction akin to sharpness-aware minimisation, whatever the paper's
eq. 8 suggests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from holdtrue.errors import SettingsError
from holdtrue.losses import Loss
from holdtrue.refresh.samples import Samples
from holdtrue.reward.model import Batch, RewardModel
from holdtrue.tokens.tree import Tree
from holdtrue.training.step import GradientStep, Sums

Scope = Literal["head", "lora", "all"]
Step = Literal["normalised", "raw", "adam"]
EPSILON = 1e-8
"""Added to |g| by the Adam-scaled step, as AdamW does to the root of its second moment."""


@dataclass
class Lookahead:
    """MetaRM's gradient step around another.

    Attributes:
        base: gives the gradient of the loss, with all its passes, at the displaced parameters.
        size: length ρ of δ where the step is normalised, else the rate η.
        sign: 1 as published; -1 looks where J is smaller.
        values, relative: mean J of each step's meta batch, and ‖δ‖ / ‖θ‖, in order.
    """

    base: GradientStep
    samples: Samples
    size: float
    step: Step = "normalised"
    scope: Scope = "all"
    sign: int = 1
    second_order: bool = False
    values: list[float] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)

    def __call__(self, model: RewardModel, loss: Loss, batches: Iterable[Batch]) -> Sums:
        """Gradients at the displaced parameters; on return, or whatever is raised, these are as before."""
        parameters = in_scope(model, self.scope)
        trees = self.samples.draw()
        value, gradient = self.samples.gradient(model, trees, parameters)
        delta = displacement(gradient, self.step, self.sign * self.size)
        self.values.append(value)
        self.relative.append(norm(delta) / max(norm(parameters), 1e-30))
        with displaced(parameters, delta):
            sums = self.base(model, loss, batches)
        if self.second_order:
            factor = self.sign * self.size
            if self.step == "normalised":
                factor /= norm(gradient) + 1e-12
            self._add_curvature(model, trees, parameters, factor)
        return sums

    def _add_curvature(
        self, model: RewardModel, trees: Sequence[Tree], parameters: list[nn.Parameter], factor: float
    ) -> None:
        """Add factor · H_J v to the gradients, v being those of the displaced parameters."""
        trained = in_scope(model, "all")
        world = self.samples.world
        world.sum_gradients(trained)
        direction = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        curved = hessian_vector(
            lambda: self.samples.gradient(model, trees, trained)[1], parameters, direction
        )
        for parameter, part in zip(trained, curved, strict=True):
            whole = part * factor if parameter.grad is None else parameter.grad + factor * part
            parameter.grad = whole / world.size  # the loop sums over processes


@dataclass
class Joint:
    """Gradient of L - λJ: J is raised together with fitting the pairs."""

    base: GradientStep
    samples: Samples
    weight: float
    values: list[float] = field(default_factory=list)

    def __call__(self, model: RewardModel, loss: Loss, batches: Iterable[Batch]) -> Sums:
        """Adds -λ·(Σ weight)·∇J, which the loop then divides by Σ weight. The sums are those of L."""
        sums = self.base(model, loss, batches)
        world = self.samples.world
        share = self.samples.backward(
            model, self.samples.draw(), -self.weight * world.total([sums.weight])[0]
        )
        self.values.append(world.total([share])[0])
        return sums


def in_scope(model: RewardModel, scope: Scope) -> list[nn.Parameter]:
    """The trained parameters that the inner step moves.

    Raises:
        SettingsError: there are none.
    """
    heads = {id(p) for p in model.head_weights.values()} if scope == "head" else set()
    found = [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and (scope == "all" or id(p) in heads or (scope == "lora" and ".lora_" in name))
    ]
    if not found:
        raise SettingsError(
            f"scope {scope}: the model has no such trained weights" + (", set model.lora" * (scope == "lora"))
        )
    return found


def displacement(gradient: Sequence[Tensor], step: Step, size: float) -> list[Tensor]:
    """δ: size·g/‖g‖ (normalised), size·g (raw), or size·g/(|g| + 1e-8), Adam's step from fresh moments."""
    if step == "adam":
        return [size * g / (g.abs() + EPSILON) for g in gradient]
    scale = size / (norm(gradient) + 1e-12) if step == "normalised" else size
    return [scale * g for g in gradient]


def hessian_vector(
    gradient: Callable[[], list[Tensor]], parameters: Sequence[nn.Parameter], direction: Sequence[Tensor]
) -> list[Tensor]:
    """H v by central differences: [g(θ + εv) - g(θ - εv)] / 2ε with ε = 0.01 / ‖v‖."""
    length = norm(direction)
    if not length:
        return [torch.zeros_like(part) for part in gradient()]
    epsilon = 1e-2 / length
    with displaced(parameters, [epsilon * part for part in direction]):
        ahead = gradient()
    with displaced(parameters, [-epsilon * part for part in direction]):
        behind = gradient()
    return [(one - other) / (2 * epsilon) for one, other in zip(ahead, behind, strict=True)]


@contextmanager
def displaced(parameters: Sequence[nn.Parameter], delta: Sequence[Tensor]) -> Iterator[None]:
    """Parameters moved by δ inside, and bit for bit what they were after it, whatever happens.

    A copy is kept: adding and subtracting would drift by a rounding a step.
    """
    before = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for parameter, part in zip(parameters, delta, strict=True):
                parameter.add_(part)
        yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(parameters, before, strict=True):
                parameter.copy_(kept)


def norm(tensors: Sequence[Tensor]) -> float:
    """Length of all tensors taken as one vector."""
    return float(torch.nn.utils.get_total_norm([t.detach() for t in tensors]))
