"""A number at the end of every step of an answer: a process reward model.

    z_s = w · h(last token of step s)          P(step s is right) = σ(z_s)

    min       reward = min_s z_s                (Math-Shepherd, arXiv 2312.08935, section 3.4)
    product   reward = Σ_s log σ(z_s), the log of P(all steps are right)    (arXiv 2305.20050, section 3.3)
    mean      reward = mean_s z_s
    last      reward = z of the last step

Steps are the parts of an answer between separators, whether or not they were judged, so the reward is a
function of the text alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdtrue.reward.kinds import RewardKind

if TYPE_CHECKING:
    from torch import Tensor

    from holdtrue.reward.model import RewardOutput
    from holdtrue.tokens.conversation import Marker


class Process(RewardKind):
    """A number per step of an answer; the worst, their product, mean or the last is the reward."""

    gives: ClassVar[frozenset[str]] = frozenset({"rewards", "steps"})

    separator: str = Field("\n", min_length=1)
    """What stands between two steps."""
    reduce: Literal["min", "product", "mean", "last"] = "min"
    """How the steps make up the reward."""

    @property
    def labels(self) -> tuple[str, ...]:
        return ("reward",)

    @property
    def marks(self) -> Marker | None:
        return "steps"

    def read(self, logits: Tensor, hidden: Tensor, ends: Tensor) -> RewardOutput:
        from torch import arange, cat, repeat_interleave
        from torch.nn.functional import logsigmoid

        from holdtrue.reward.model import RewardOutput

        steps = logits[:, 0].clone()
        counts = cat([ends[:1] + 1, ends.diff()])
        answer = repeat_interleave(arange(len(ends), device=ends.device), counts)
        nothing = steps.new_zeros(len(ends))
        if self.reduce == "last":
            rewards = steps[ends]
        elif self.reduce == "min":
            rewards = nothing.scatter_reduce(0, answer, steps, "amin", include_self=False)
        elif self.reduce == "mean":
            rewards = nothing.index_add(0, answer, steps) / counts
        else:
            rewards = nothing.index_add(0, answer, logsigmoid(steps))
        return RewardOutput(rewards=rewards, steps=steps)
