"""Learning-rate schedules: the factor of the peak rate, as a pure function of the step.

With n updates in all, of which the first w = ⌈warmup_ratio·n⌉ (at most n - 1) warm up, and i = step - w
the updates since, m = n - w the updates left after warm-up, c = max(1, round(lr_step_size·n)), γ = lr_gamma:

    warm-up   (step + 1) / (w + 1)            constant  1
    linear    1 - i/m                         cosine    (1 + cos(π·i/m)) / 2
    step      γ^⌊i/c⌋                         cyclical  γ + (1 - γ)·|1 - 2·(i mod c)/c|

Steps count from 0, and ``factor(step, ...)`` is that of update ``step + 1``. No update has rate 0: warm-up
begins at 1/(w + 1) and linear and cosine end at one step above 0. Nothing here has state, so a resumed
run has the rates of an uninterrupted one. The cycle is the triangle of arXiv 1506.01186, begun at its top.
"""

from __future__ import annotations

from math import ceil, cos, pi
from typing import Literal, Protocol


class Course(Protocol):
    """Settings of a schedule."""

    @property
    def lr_scheduler_type(self) -> Literal["constant", "linear", "cosine", "step", "cyclical"]: ...
    @property
    def warmup_ratio(self) -> float: ...
    @property
    def lr_step_size(self) -> float: ...
    @property
    def lr_gamma(self) -> float: ...


def warmup_steps(total: int, ratio: float) -> int:
    """Updates that warm up: ⌈ratio·total⌉, leaving at least one at the peak rate."""
    product = round(ratio * total, 9)  # 0.07·100 is 7.000000000000001 and means 7
    return min(ceil(product), total - 1)


def factor(step: int, total: int, settings: Course) -> float:
    """Learning rate of update ``step + 1`` as a share of the peak rate, in (0, 1].

    Raises:
        ValueError: ``step`` is not in 0 .. ``total`` - 1.
    """
    if not 0 <= step < total:
        raise ValueError(f"step must be in 0 .. {total - 1} (total {total}), got {step}")
    warmup = warmup_steps(total, settings.warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    since, left = step - warmup, total - warmup
    period = max(1, round(settings.lr_step_size * total))
    gamma = settings.lr_gamma
    match settings.lr_scheduler_type:
        case "constant":
            return 1.0
        case "linear":
            return 1 - since / left
        case "cosine":
            return (1 + cos(pi * since / left)) / 2
        case "step":
            return float(gamma ** (since // period))
        case "cyclical":
            return gamma + (1 - gamma) * abs(1 - 2 * (since % period) / period)
