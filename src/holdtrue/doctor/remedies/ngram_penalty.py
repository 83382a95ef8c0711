"""A penalty on n-grams said before, at the end of an answer.

    r = (grams among the last `window` that stand twice or more before them) / window
    P = -weight · max(0, r - free) / (1 - free)

Counted over the whole answer, a healthy table is worse (-0.73) than a failure that begins to loop at its end
(-0.15); an answer that has fallen into a loop still is in it when it ends or is cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from holdtrue.doctor.remedies import TrainingRemedy
from holdtrue.health.repetition import copies_before, hashes


class NgramPenalty(TrainingRemedy):
    """Taken from the reward for an end that says again what has been said twice."""

    grade = "B"
    evidence = (
        "such a reward ended repetition after 150 steps (Seg-Zero). At a limit that 1 % of 365 healthy "
        "answers exceed, the last 128 grams tell 0.97 of 158 loops, TRL's share over the whole answer "
        "0.87"
    )
    source = "JIA-Lab-research/Seg-Zero#90; TRL's get_repetition_penalty_reward; benchmarks/remedies.py"
    mends = frozenset({"loops_taught_or_unpunished"})
    harms = "in supervised training, which has no reward"
    not_in_sft = "supervised training has no reward"

    n: int = Field(4, ge=1)
    """Tokens of a gram."""
    window: int = Field(128, ge=1)
    """Grams at the end that are read. A shorter answer counts as one whose rest is new."""
    free: float = Field(0.65, ge=0, lt=1)
    """Repetition that costs nothing: lists and tables reach it."""
    weight: float = Field(1.0, gt=0)
    """The largest penalty."""

    def repetition(self, ids: Sequence[int]) -> float:
        """r of the answer, without its end tokens; 0 for one that is too short to repeat itself."""
        before = copies_before(hashes(np.asarray(ids, dtype=np.int64), self.n))
        return float(np.count_nonzero(before[-self.window :] >= 2) / self.window)

    def penalty(self, ids: Sequence[int]) -> float:
        """P of the answer, which is added to its reward: 0 to -``weight``."""
        over = (self.repetition(ids) - self.free) / (1 - self.free)
        return -self.weight * over if over > 0 else 0.0

    def engines(self) -> dict[str, dict[str, object]]:
        """A reward function around :meth:`penalty`; TRL's own reads the whole answer."""
        return {"trl": {"reward_funcs": "[remedy.penalty(ids) for ids in completion_ids]"}}
