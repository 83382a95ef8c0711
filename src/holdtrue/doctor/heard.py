"""What a reward says of honest answers and of their twins, before anything of it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from holdtrue.doctor.rewards import Case, Reward, RewardFault, ask
from holdtrue.errors import DataError
from holdtrue.health.probes import PROBES
from holdtrue.intervals import wilson

Floats = NDArray[np.float64]

CHANGE, NOISE = 0.1, 1e-4
"""In spreads: what counts as a raise or a loss, and what as no change."""
FEW = 10
"""Numbers that a rule may know."""
ALONE = 16
"""Answers that are also asked about one by one."""
COSTLY = ("R01", "R07", "R08", "R10")
"""Findings whose probes ought to cost; those of the others must not pay."""
HANGS = 2
"""After so many hangs no more twins are tried."""


@dataclass(frozen=True)
class Effect:
    """What a probe did to the rewards of ``count`` answers; ``median`` is in spreads.

    ``interval`` is the Wilson interval of the share that is raised, or that loses nothing where a loss is
    due. ``examples``: where the answer stands, its reward, and its twin's; the worst first.
    """

    probe: str
    count: int
    raised: int
    lost: int
    same: int
    median: float
    interval: tuple[float, float]
    examples: tuple[tuple[str, float, float], ...]

    @property
    def kept(self) -> int:
        """Answers that lost nothing to speak of."""
        return self.count - self.lost

    def pays(self, confidence: float, exact: bool) -> bool:
        """Whether more of those it changes are raised than lose; beyond chance, when the reward can waver."""
        if exact:
            return self.raised > self.lost
        return wilson(self.raised, self.raised + self.lost, confidence)[0] > 0.5


@dataclass
class Heard:
    """What the reward said of the honest answers, and of the twins by finding and probe."""

    cases: Sequence[Case]
    honest: Floats
    again: Floats
    backwards: Floats
    alone: Floats
    twins: dict[str, dict[str, Floats]] = field(default_factory=dict)
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Probe -> how many of its twins broke the reward, and how."""
    untried: list[str] = field(default_factory=list)

    @property
    def everything(self) -> Floats:
        """Every finite reward."""
        twins = [rewards for group in self.twins.values() for rewards in group.values()]
        values: Floats = np.concatenate([self.honest, *twins])
        finite: Floats = values[np.isfinite(values)]
        return finite

    @property
    def constant(self) -> bool:
        """Whether there is one number at most."""
        values = self.everything
        return not len(values) or float(np.ptp(values)) <= 1e-12 * max(1.0, float(np.abs(values).max()))

    @property
    def exact(self) -> bool:
        """Whether it is a rule that knows few numbers, not one that wavers with every word."""
        return len(np.unique(self.everything)) <= FEW

    @property
    def spread(self) -> float:
        """Standard deviation of the honest rewards; of all when those are one number."""
        return float(np.std(self.honest[np.isfinite(self.honest)])) or float(np.std(self.everything)) or 1.0

    @property
    def can_lose(self) -> NDArray[np.bool_]:
        """Which answers (N,) earn more than the least."""
        finite = self.honest[np.isfinite(self.honest)]
        floor = finite.min() if np.ptp(finite) else self.everything.min()
        above: NDArray[np.bool_] = self.honest > floor + NOISE * self.spread
        return above

    def effects(self, finding: str) -> list[Effect]:
        """What each probe of a finding did; those with no reward to compare are left out."""
        found = []
        for probe, twins in self.twins[finding].items():
            usable = np.isfinite(self.honest) & np.isfinite(twins)
            rows = np.flatnonzero(usable & self.can_lose if finding in COSTLY else usable)
            if not len(rows):
                continue
            change = (twins[rows] - self.honest[rows]) / self.spread
            raised, lost = int(np.sum(change > CHANGE)), int(np.sum(change < -CHANGE))
            shown = rows[np.argsort(-change, kind="stable")[:3]]
            found.append(
                Effect(
                    probe,
                    count=len(rows),
                    raised=raised,
                    lost=lost,
                    same=int(np.sum(np.abs(change) <= NOISE)),
                    median=float(np.median(change)),
                    interval=wilson(len(rows) - lost if finding in COSTLY else raised, len(rows)),
                    examples=tuple((self.cases[i].at, float(self.honest[i]), float(twins[i])) for i in shown),
                )
            )
        return found


def listen(reward: Reward, cases: Sequence[Case], limit: float) -> Heard:
    """Ask the reward everything the audit needs to know."""
    if len({case.text for case in cases}) < 2:
        raise DataError(f"the audit needs two different honest answers or more, got {len(cases)} rows")
    cases, honest = _honest(reward, cases, limit)
    few = cases[:ALONE]
    try:
        heard = Heard(
            cases,
            honest,
            again=ask(reward, cases, limit),
            backwards=ask(reward, cases[::-1], limit)[::-1],
            alone=np.array([ask(reward, [case], limit)[0] for case in few]),
        )
    except RewardFault as fault:
        raise DataError(f"the reward {fault}, for honest answers asked about in another way") from fault
    others = _others(cases)
    hangs = 0
    for id, probes in PROBES.items():
        group = heard.twins.setdefault(id, {})
        for name, probe in probes.items():
            if hangs >= HANGS:
                heard.untried.append(name)
                continue
            twins = [case.saying(probe(case.text, other)) for case, other in zip(cases, others, strict=True)]
            try:
                group[name] = ask(reward, twins, limit)
            except RewardFault as fault:
                hangs += fault.hung
                group[name], broken = _one_by_one(reward, twins, limit, fault)
                heard.faults[name] = (broken, str(fault))
    return heard


def _honest(reward: Reward, cases: Sequence[Case], limit: float) -> tuple[Sequence[Case], Floats]:
    """The cases in the form that the reward takes, and their rewards."""
    try:
        return cases, ask(reward, cases, limit)
    except RewardFault as fault:
        first = fault
    if not first.hung and isinstance(cases[0].prompt, str):
        chats = [case.as_chat() for case in cases]
        try:
            return chats, ask(reward, chats, limit)
        except RewardFault:
            pass  # what it did with the rows as they are says more
    raise DataError(f"the reward {first}, for {len(cases)} honest answers (the first at {cases[0].at})")


def _one_by_one(
    reward: Reward, twins: Sequence[Case], limit: float, fault: RewardFault
) -> tuple[Floats, int]:
    """Rewards of the twins that do not break it, and how many do; after a hang none is tried."""
    values = np.full(len(twins), np.nan)
    if fault.hung:
        return values, len(twins)
    broken = 0
    for index, twin in enumerate(twins):
        try:
            values[index] = ask(reward, [twin], limit)[0]
        except RewardFault:
            broken += 1
    return values, broken or len(twins)


def _others(cases: Sequence[Case]) -> list[str]:
    """For each case the answer of the next one with another prompt; its own when there is none."""
    doubled = [*cases, *cases]
    return [
        next((one.text for one in doubled[i + 1 : i + len(cases)] if one.prompt != case.prompt), case.text)
        for i, case in enumerate(cases)
    ]
