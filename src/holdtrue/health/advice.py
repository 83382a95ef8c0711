"""What a training loop is advised to do about unhealthy rollouts: nothing, unless an action is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import SettingsError
from holdtrue.health.batch import Seen
from holdtrue.health.metrics import Floats

Severity = Literal["warn", "fail"]

UNHEALTHY = ("loop", "near_loop", "control", "phantom", "not_finite")
"""Metrics that make a single row unhealthy, the first named first."""


@dataclass(frozen=True)
class Example:
    """A row of the batch, and where in it the symptom begins (-1: it has no place)."""

    row: int
    onset: int


@dataclass(frozen=True)
class Alarm:
    """A metric that became worse.

    Attributes:
        metric: its name.
        severity: ``fail`` when it is beyond its limit, ``warn`` when it changed.
        step: of the batch that raised it.
        onset_step: where the change began, as far as the running sum tells.
        value: of the metric in this batch.
        calibration: of the metric in the calibration; None without one.
        cause: the likely cause, in capitals.
        why, fix: for people.
        examples: up to three rows.
    """

    metric: str
    severity: Severity
    step: int
    onset_step: int
    value: float
    calibration: float | None
    cause: str
    why: str
    fix: str
    examples: tuple[Example, ...] = ()

    def __str__(self) -> str:
        before = (
            "not calibrated" if self.calibration is None else f"{self.calibration:.3g} in the calibration"
        )
        where = "; ".join(f"row {one.row} from token {one.onset}" for one in self.examples if one.onset >= 0)
        return (
            f"step {self.step} {self.severity.upper()} {self.cause}: {self.metric} is {self.value:.3g} "
            f"({before}), since step {self.onset_step}; {self.why}. {self.fix}"
            + (f" [{where}]" if where else "")
        )


@dataclass(frozen=True)
class Actions:
    """What may be advised. Off by default: the monitor then only watches."""

    abort: bool = False
    """Unhealthy rows that are still being generated end."""
    exclude: bool = False
    """Unhealthy rows leave the group's baseline and get advantage 0 (TRL: a reward of None)."""
    penalise: float = 0.0
    """This is taken from the reward of unhealthy rows."""
    lower_learning_rate: float = 1.0
    """Factor at an alarm, at most 1."""
    raise_kl: float = 1.0
    """Factor for the KL coefficient at an alarm, at least 1."""
    stop: bool = False
    """Training ends at an alarm."""
    rollback: bool = False
    """Training goes back to the last healthy checkpoint at an alarm. Change the learning rate, the KL
    coefficient or the seed with it: the same state, prompts and randomness give the same collapse."""
    at: Severity = "fail"
    """Least severity of an alarm that learning rate, KL, stop and rollback answer to."""

    def __post_init__(self) -> None:
        if not 0 < self.lower_learning_rate <= 1 or not self.raise_kl >= 1 or not self.penalise >= 0:
            raise SettingsError(
                f"lower_learning_rate is in (0, 1], raise_kl 1 or more, penalise 0 or more; seen "
                f"{self.lower_learning_rate}, {self.raise_kl}, {self.penalise}"
            )


@dataclass(frozen=True)
class Advice:
    """What to do with a batch, and after it.

    Attributes:
        reasons: for each row the metric that makes it unhealthy, or None.
        abort: (R,) rows to end now.
        keep: (R,) rows to learn from.
        penalty: (R,) to be taken from the rewards.
        learning_rate, kl: factors, 1 for no change.
        stop: end training.
        rollback_to: the last step without a standing alarm: take the newest checkpoint up to it. None: stay.
    """

    reasons: tuple[str | None, ...]
    abort: NDArray[np.bool_]
    keep: NDArray[np.bool_]
    penalty: Floats
    learning_rate: float = 1.0
    kl: float = 1.0
    stop: bool = False
    rollback_to: int | None = None


def advise(
    actions: Actions,
    seen: Seen,
    alarms: Sequence[Alarm],
    finish: Sequence[str | None] | None,
    healthy_step: int | None,
) -> Advice:
    """Turn what was seen in a batch, and the alarms it raised, into advice."""
    rows = len(seen.values["length"])
    reasons: list[str | None] = [None] * rows
    for name in reversed(UNHEALTHY):
        for row in np.flatnonzero(seen.values.get(name, np.zeros(rows)) > 0).tolist():
            reasons[row] = name
    unhealthy = np.array([reason is not None for reason in reasons], dtype=np.bool_)
    running = np.array([one is None for one in finish or [""] * rows], dtype=np.bool_)
    grave = [one for one in alarms if actions.at == "warn" or one.severity == "fail"]
    return Advice(
        reasons=tuple(reasons),
        abort=unhealthy & running if actions.abort else np.zeros(rows, dtype=np.bool_),
        keep=~unhealthy if actions.exclude else np.ones(rows, dtype=np.bool_),
        penalty=np.where(unhealthy, actions.penalise, 0.0),
        learning_rate=actions.lower_learning_rate if grave else 1.0,
        kl=actions.raise_kl if grave else 1.0,
        stop=actions.stop and bool(grave),
        rollback_to=healthy_step if actions.rollback and grave else None,
    )
