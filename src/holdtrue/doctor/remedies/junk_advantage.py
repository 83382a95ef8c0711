"""Advantages of tokens that no answer should hold: never above a negative bound.

    A'_t = min(A_t, -least)   where t is junk,   A'_t = A_t   elsewhere

A reward of whole answers gives junk the advantage of the useful tokens beside it. So a right answer no longer
teaches the junk it carries, and its useful tokens still learn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from holdtrue.doctor.remedies import Context, TrainingRemedy
from holdtrue.errors import DataError

Floats = NDArray[np.floating]


class JunkAdvantage(TrainingRemedy):
    """Tokens of junk (control and phantom ids, text behind the last tag) get a negative advantage, always."""

    grade = "C"
    evidence = (
        "GRPO on a table with a blind reward, 8 seeds: loops 0.107 became 0.005 (bound 0.5) or 0.037 "
        "(bound 0), with a veto 0.001 and without either 0.109; same task reward. Not shown on a large "
        "model"
    )
    source = "benchmarks/remedies.py; published nowhere"
    mends = frozenset({"blind_reward", "control_tokens_can_be_sampled"})
    harms = (
        "in supervised training; where engine and trainer differ (GAP_TREND, nan_logits), so that "
        "the junk is not the policy's"
    )
    not_in_sft = "supervised training has no advantages; mask or drop such targets"

    least: float = Field(0.5, ge=0)
    """In units of the normalised advantage; 0 only takes away what rewards junk."""

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where the junk comes from the engine."""
        if broken := context.findings & {"GAP_TREND", "nan_logits"}:
            return (
                f"{', '.join(sorted(broken))}: the engine writes what the policy does not mean; it would "
                f"be punished "
                "for tokens it finds unlikely, mend the engine first"
            )
        return super().refuses(context)

    def mask(self, advantages: Floats, junk: NDArray[np.bool_]) -> Floats:
        """Advantages of tokens, (T,) or (N, T), with those of junk bounded; ``junk`` has the same shape."""
        if advantages.shape != junk.shape:
            raise DataError(
                f"advantages are of shape {advantages.shape} and junk of {junk.shape}; give one of each a "
                f"token"
            )
        return np.where(junk, np.minimum(advantages, -self.least), advantages)
