"""Whether a text loops, as the detectors of rollouts see it."""

from __future__ import annotations

from holdtrue.doctor.detectors.near_loop import NearLoop
from holdtrue.doctor.detectors.tail_cycle import TailCycle
from holdtrue.doctor.reading import Reading
from holdtrue.records import Rollout


def looped(text: str) -> bool:
    """Whether it ends in a cycle, or says almost the same again and again."""
    reading = Reading(Rollout("", text))
    return any(True for detector in (TailCycle(), NearLoop()) for _ in detector.check(reading))
