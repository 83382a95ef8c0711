"""Raise J together with fitting the pairs: minimise L - λJ.

What MetaRM is taken for, and becomes where its inner step leaks into the optimiser. It widens the differences
on the policy's answers whether or not their order is right: a control, not a recommendation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.refresh.context import Need, RefreshContext, RefreshReport, count_comparisons, named_counts
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer
    from holdtrue.training.distributed import World
    from holdtrue.training.setup import Setup
    from holdtrue.training.step import GradientStep


class JointDifference(Refresh):
    """Minimise L - λJ, L on the pairs and J on the policy's answers (no labels)."""

    weight: float = Field(0.05, ge=0)
    """λ, in nats."""
    prompts: int = Field(4, gt=0)
    """Prompts in a step's meta batch."""
    answers: int = Field(4, gt=1)
    """Most answers of a prompt, k."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"shifted"})

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh.fitting import fit
        from holdtrue.refresh.samples import Samples, plant
        from holdtrue.refresh.steps import Joint

        values: list[float] = []
        counts: dict[str, int] = {}

        def make_step(setup: Setup, base: GradientStep, world: World, done: int) -> GradientStep:
            trees, left_out = plant(context.shifted, setup.encoder, self.answers)
            counts.update({"meta prompts": len(trees)} | named_counts(left_out))
            samples = Samples(trees, self.prompts, setup.settings.training, context.seed, world, done)
            return Joint(base, samples, self.weight, values)

        fitted = fit(context, context.pairs, make_step=make_step)
        numbers = {"J_first": values[0], "J_last": values[-1]} if values else {}
        trained_on = count_comparisons(context.pairs)
        return fitted.scorer, RefreshReport(
            fitted.folder, comparisons=trained_on, numbers=numbers, counts=counts
        )
