"""Dr. GRPO: GRPO without its two biases (arXiv 2503.20783, section 3).

    A    = r - mean of the group
    loss = mean over answers of 1/L · Σ over its tokens of -min(ρ_t·A, clip(ρ_t)·A)

with L the longest answer the sampler may give. Not dividing by the std keeps prompts that are nearly solved
or nearly hopeless from weighing more; not dividing by its own length keeps a wrong answer from growing
cheaper as it grows longer. The KL is left out, as in the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdtrue.policy import advantages
from holdtrue.policy.algorithms import Algorithm
from holdtrue.policy.inputs import LossInputs, LossOutputs, Scored
from holdtrue.policy.objectives import fixed_length

if TYPE_CHECKING:
    from torch import Tensor


class DrGRPO(Algorithm):
    """Group-relative advantages without the division by std and by length."""

    def advantages(self, scored: Scored) -> Tensor:
        """(N,)"""
        return advantages.dr_grpo(self.penalised(scored), scored.keep, scored.group)

    def loss(self, inputs: LossInputs) -> LossOutputs:
        """Mean over answers of the sum over their tokens, divided by the longest answer there may be."""
        return self.clipped(inputs, inputs.log_ratio, fixed_length(inputs))
