"""Cross-entropy of every judged step: right or wrong.

    t = (value - lowest) / (highest - lowest)
    loss = mean over steps of  -t·log σ(z) - (1 - t)·log σ(-z)          [nats]

z is the model's number at the end of the step (arXiv 2211.14275, section 2.2; arXiv 2305.20050). Steps that
were not judged count nothing.

Needs a value for at least one step of an answer. Choose it for solutions judged step by step, by people
(PRM800K: ``lowest: -1``, neutral steps then count half) or by how often rollouts from there end well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from holdtrue.errors import DataError
from holdtrue.losses import Loss, LossTerms, given

if TYPE_CHECKING:
    from holdtrue.records import Group
    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.batches import Targets


class StepCrossEntropy(Loss):
    """Cross-entropy of steps judged right or wrong; for answers judged step by step."""

    reads: ClassVar[frozenset[str]] = frozenset({"steps"})
    unit = "answer"
    target = "steps"

    lowest: float = 0.0
    """Value of a step that is surely wrong."""
    highest: float = 1.0
    """Value of a step that is surely right."""

    @model_validator(mode="after")
    def _a_range(self) -> StepCrossEntropy:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest must be below highest, got {self.lowest:g} and {self.highest:g}")
        return self

    def __call__(self, out: RewardOutput, targets: Targets) -> LossTerms:
        """Terms (M,) in nats."""
        from torch.nn.functional import softplus

        z = given(out, "steps")
        known = ~targets.steps.isnan()
        t = (targets.steps.nan_to_num(self.lowest) - self.lowest) / (self.highest - self.lowest)
        counted = targets.counted.repeat_interleave(targets.marks)
        return LossTerms(softplus(z) - t * z, counted * known)

    def check(self, groups: Iterable[Group]) -> None:
        values = {value for group in groups for answer in group.answers for _, value in answer.steps}
        outside = [value for value in values if not self.lowest <= value <= self.highest]
        if outside:
            raise DataError(
                f"a step is valued {min(outside):g}, outside of {self.lowest:g} to {self.highest:g}; "
                f"set loss.lowest and loss.highest (values seen: {min(values):g} to {max(values):g})"
            )
