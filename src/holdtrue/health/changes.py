"""Has a metric become worse? One-sided CUSUM against a calibration, with a floor and a limit.

A batch's value x of n units becomes ``z = (x - mean - 2 sd / sqrt(m)) / (sd / sqrt(n))`` with the
calibration's mean and standard deviation over m units. The mean is taken two of its standard errors worse
than it was seen: a mean that is a little too good would be an endless change. Then ``S = max(0, S + min(z,
3.5) - 0.5)``, and the metric has changed when S > 5 (Page 1954): a shift of one standard error is found in
about 10 batches, a false alarm comes about every 900 (Montgomery, Statistical Quality Control, chapter 9).
Training moves every metric a little, so the value must also be worse than the calibration by a *floor*. A
value beyond the *limit* alarms at once, also without a calibration; with one, z must be 3 or more too: where
the calibration lies just below the limit, a batch passes it by chance. What the calibration never showed
needs no such proof. (Shares of 64 rows that stay at 0.488 under a limit of 0.5 gave 15 alarms in 100 batches
without that rule and 0.02 with it; a rise to 0.8 is found as soon, one to 0.7 two batches later.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from holdtrue.health.metrics import Floats

DRIFT = 0.5
"""k: half of the smallest shift worth finding, in standard errors."""
DECISION = 5.0
"""h."""
LARGEST = 3.5
"""A single batch adds no more, so that it takes two to alarm."""
CAUTION = 2.0
"""Standard errors by which the calibration's mean may be too good."""
CERTAIN = 3.0
"""z of a single batch that passes a limit: by chance once in 740."""
MOST = DECISION + LARGEST
"""The sum stays below, so that it comes back soon when all is well again."""

State = dict[str, Any]


@dataclass(frozen=True)
class Limit:
    """When a metric is worse.

    Attributes:
        worse: whether a higher or a lower value is worse.
        floor: smallest change from the calibration that matters.
        limit: a value this bad alarms at once; None: only changes do.
        share: the metric is a share of rows.
    """

    worse: Literal["higher", "lower"] = "higher"
    floor: float = 0.0
    limit: float | None = None
    share: bool = False

    @property
    def sign(self) -> int:
        """+1 when higher is worse."""
        return 1 if self.worse == "higher" else -1

    def beyond(self, value: float) -> bool:
        """Whether the value is at the limit or beyond; NaN is not."""
        return self.limit is not None and self.sign * value >= self.sign * self.limit


def baseline(values: Floats, *, share: bool = False, rows: float = 1.0) -> State | None:
    """Mean and standard deviation of a metric over a calibration's units, None without a finite one.

    A share that is 0 or 1 throughout has no spread; it gets that of ``(x + 1) / (n + 2)`` (Laplace), for
    units of ``rows`` rows each.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if share:
        n = len(values) * rows
        p = (mean * n + 1) / (n + 2)
        sd = max(sd, math.sqrt(p * (1 - p) / rows))
    # Without any spread the least difference would count; the floor decides then.
    return {"mean": mean, "sd": max(sd, 1e-9 * max(1.0, abs(mean))), "n": len(values)}


def start() -> State:
    """State of a metric nothing has been seen of."""
    return {"sum": 0.0, "since": None, "alarmed": False, "failed": False}


def advance(
    state: State, limit: Limit, reference: State | None, value: float, n: int, step: int
) -> tuple[State, bool]:
    """Take the value of the batch of ``step`` over ``n`` units: the new state, and whether it alarms now.

    A change alarms once, and once more when it passes the limit; it does again only after the sum has
    come back to 0 and no limit is passed. A value that is not finite, or a batch without units, changes
    nothing. ``state["since"]`` is the step of the estimated onset: the first after the sum was last 0.
    """
    if not math.isfinite(value) or not n:
        return state, False
    total, since = state["sum"], state["since"]
    floor_passed, over = False, limit.beyond(value)
    if reference:
        change = limit.sign * (value - reference["mean"])
        z = (change - CAUTION * reference["sd"] / math.sqrt(reference["n"])) / (
            reference["sd"] / math.sqrt(n)
        )
        total = min(max(0.0, total + min(z, LARGEST) - DRIFT), MOST)
        floor_passed = change >= limit.floor
        # a limit that the calibration passes too says nothing of what changed
        over &= not limit.beyond(reference["mean"]) and (z >= CERTAIN or reference["mean"] == 0)
    if total > 0 or over:
        since = step if since is None else since
    else:
        since = None
    worse = over or (total > DECISION and floor_passed)
    alarmed = worse or (state["alarmed"] and since is not None)
    failed = over or (state["failed"] and since is not None)
    new = worse and (not state["alarmed"] or (over and not state["failed"]))
    return {"sum": total, "since": since, "alarmed": alarmed, "failed": failed}, new


def trend(values: Floats) -> tuple[float, float]:
    """Least-squares change from the first to the last of a series, and its t value; NaN for fewer than 4."""
    n = len(values)
    if n < 4 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    x = np.arange(n) - (n - 1) / 2
    slope = float(x @ values / (x @ x))
    rest = values - values.mean() - slope * x
    error = math.sqrt(float(rest @ rest) / (n - 2) / float(x @ x))
    if slope == 0:
        return 0.0, 0.0
    return slope * (n - 1), slope / max(error, 1e-12 * abs(slope))
