"""MetaRM: fit the pairs at the point where rewards of the policy's new answers lie further apart.

    θ' = θ + δ(∇J),   θ <- θ - α·AdamW(∇L(θ'))        J: :mod:`holdtrue.refresh.difference`

Source: arXiv 2405.00438, algorithm 1, as one of its authors describes it (OpenLMLab/MOSS-RLHF#42): first
order, θ' thrown away. No code was published. The authors report higher win rates over rounds, without a
control that is trained as often. Against that stands: the step as published lowers J at the deployed weights
(:mod:`holdtrue.refresh.steps`), and with plain SGD at the published rate it is too short to change anything.
Measure it against ``retrain``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from holdtrue.refresh.context import Need, RefreshContext, RefreshReport, count_comparisons, named_counts
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer
    from holdtrue.training.distributed import World
    from holdtrue.training.setup import Setup
    from holdtrue.training.step import GradientStep

PAPER = {
    "order": "first",
    "sign": 1,
    "step": "raw",
    "size": None,
    "scope": "all",
    "prompts": 16,
    "answers": 5,
}
"""What the paper states: k = 5, meta batches as large as batches of pairs (16), η = α."""
INERT = 1e-6
"""Relative length ‖δ‖ / ‖θ‖ below which the inner step is lost in the rounding of float32."""

_log = logging.getLogger(__name__)


class MetaRM(Refresh):
    """Train on the pairs with gradients taken one step ahead along J of the policy's answers (no labels)."""

    preset: Literal["paper"] | None = None
    """``paper``: the published values, for all fields that are not given."""
    order: Literal["first", "second"] = "first"
    """``second`` also differentiates through the inner step, by central differences (2 more meta batches)."""
    sign: Literal[1, -1] = 1
    """1 as published; -1 looks ahead to where the answers are told apart less."""
    step: Literal["normalised", "raw", "adam"] = "normalised"
    """δ = ρ∇J/‖∇J‖, η∇J, or η∇J/(|∇J| + 1e-8). The optimiser's moments never see it."""
    size: float | None = Field(None, ge=0)
    """ρ or η. By default ρ = 0.1, and η = the learning rate."""
    scope: Literal["head", "lora", "all"] = "all"
    """Weights the inner step moves; all that are trained are trained in any case. ``head`` is cheapest."""
    prompts: int = Field(4, gt=0)
    """Prompts in a step's meta batch."""
    answers: int = Field(4, gt=1)
    """Most answers of a prompt, k."""

    @model_validator(mode="before")
    @classmethod
    def _paper(cls, given: Any) -> Any:
        return {**PAPER, **given} if isinstance(given, Mapping) and given.get("preset") == "paper" else given

    @model_validator(mode="after")
    def _second_order_of_what_is_linear(self) -> MetaRM:
        if self.order == "second" and self.step == "adam":
            raise ValueError("order second goes with step normalised or raw")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"shifted"})

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh.fitting import fit
        from holdtrue.refresh.samples import Samples, plant
        from holdtrue.refresh.steps import Lookahead

        made: list[Lookahead] = []
        counts: dict[str, int] = {}

        def make_step(setup: Setup, base: GradientStep, world: World, done: int) -> GradientStep:
            trees, left_out = plant(context.shifted, setup.encoder, self.answers)
            counts.update({"meta prompts": len(trees)} | named_counts(left_out))
            samples = Samples(trees, self.prompts, setup.settings.training, context.seed, world, done)
            usual = 0.1 if self.step == "normalised" else setup.learning_rate
            size = usual if self.size is None else self.size
            made.append(
                Lookahead(base, samples, size, self.step, self.scope, self.sign, self.order == "second")
            )
            return made[0]

        fitted = fit(context, context.pairs, make_step=make_step)
        numbers = {}
        warnings = []
        if made and made[0].values:
            numbers = {
                "J_first": made[0].values[0],
                "J_last": made[0].values[-1],
                "relative_step": sum(made[0].relative) / len(made[0].relative),
            }
            if numbers["relative_step"] < INERT:
                warnings.append(
                    f"this step is numerically inert: it moves the weights by {numbers['relative_step']:.1e} "
                    f"of their length, less than {INERT:.0e}; the result is that of retrain"
                )
                _log.warning(warnings[0])
        trained_on = count_comparisons(context.pairs)
        return fitted.scorer, RefreshReport(
            fitted.folder, comparisons=trained_on, numbers=numbers, counts=counts, warnings=tuple(warnings)
        )
