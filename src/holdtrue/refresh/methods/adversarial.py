"""Train against answers that the model over-rates, found without labels and added as losers.

Best of n: a second model (same pairs, other seed) is asked too. Of each prompt's answers the one that the
model in use likes best is over-rated if its whitened reward is at least ``margin`` above the second's; it
loses against the answer that the second likes best (after Adv-RM, arXiv 2504.06141, which finds such answers
by a policy of its own).

Junk: what rollouts of sick policies hold (:mod:`holdtrue.health.probes`) is put into preferred answers. A
twin that does not cost reward loses against the answer it was made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from holdtrue.errors import DataError
from holdtrue.health.probes import PROBES
from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.refresh.context import (
    Floats,
    Need,
    RefreshContext,
    RefreshReport,
    count_comparisons,
    named_counts,
    rewards,
)
from holdtrue.refresh.methods import Refresh

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer

WORSE = ("R01", "R03", "R04", "R08", "R10")
"""Probes that make an answer worse: control tokens, copies, filler, nothing, another prompt's answer."""
_TRIED = 512
"""Preferred answers that are made into twins."""


class Adversarial(Refresh):
    """Train on the pairs and on pairs whose loser the model in use over-rates (no labels)."""

    margin: float = Field(1.0, gt=0)
    """By how many standard deviations the second model must disagree."""
    share: float = Field(0.25, gt=0, le=1)
    """Most new pairs of each of the two sorts, as a share of the original ones; the most over-rated first."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"shifted"})

    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        from holdtrue.refresh import fitting

        second = fitting.fit(context, context.pairs, "second", seed=fitting.seeds(context.seed, 2)[1])
        pairs = count_comparisons(context.pairs)
        most = max(1, round(self.share * pairs))
        mined = [
            over_rated(context.shifted, *self._whitened(context, second.scorer), self.margin),
            junk(context.pairs[:_TRIED], context.current),
        ]
        chosen = [[group for _, group in sorted(own, key=lambda one: -one[0])[:most]] for own in mined]
        counts = Counter(
            {
                "over-rated answers": len(mined[0]),
                "of them used": len(chosen[0]),
                "junk that costs nothing": len(mined[1]),
                "junk used": len(chosen[1]),
            }
        )
        groups = [*context.pairs, *chosen[0], *chosen[1]]
        fitted = fitting.fit(context, groups)
        return fitted.scorer, RefreshReport(
            fitted.folder, comparisons=count_comparisons(groups), counts=named_counts(counts)
        )

    def _whitened(
        self, context: RefreshContext, second: StreamingScorer
    ) -> tuple[list[Floats], list[Floats]]:
        """Rewards of the shifted answers by both models, each in its deviations on the original pairs."""
        from holdtrue.refresh.fitting import REFERENCE
        from holdtrue.reward.ensemble import scale_of

        both: list[list[Floats]] = []
        for scorer, name in ((context.current, "the model in use"), (second, "the second model")):
            scale = scale_of(rewards(scorer, context.pairs[:REFERENCE]), name)
            found = rewards(scorer, context.shifted)
            both.append([(own.astype(np.float64) - scale["mean"]) / scale["std"] for own in found])
        return both[0], both[1]


def over_rated(
    groups: Sequence[Group], first: Sequence[Floats], second: Sequence[Floats], margin: float
) -> list[tuple[float, Group]]:
    """(by how much, pair) for each prompt whose favourite of the first model the second rates far lower."""
    found = []
    for group, own, other in zip(groups, first, second, strict=True):
        if not np.isfinite(own).any():
            continue
        loser, winner = int(np.nanargmax(own)), int(np.nanargmax(other))
        excess = float(own[loser] - other[loser])
        if loser != winner and excess >= margin:
            found.append((excess, replace(group, comparisons=(Comparison(winner, loser),))))
    return found


def junk(groups: Sequence[Group], scorer: StreamingScorer) -> list[tuple[float, Group]]:
    """(reward gained, pair) for the best paid twin of each preferred answer, where it costs nothing."""
    honest = [(group, c.preferred[0]) for group in groups for c in group.comparisons[:1] if c.preferred]
    if not honest:
        raise DataError("no pair has a preferred answer to make twins of; all are ties")
    probes = [probe for name in WORSE for probe in PROBES[name].values()]
    tried = []
    for (group, best), (other, others_best) in zip(honest, honest[1:] + honest[:1], strict=True):
        answer = group.answers[best]
        texts = [probe(answer.text, other.answers[others_best].text) for probe in probes]
        twins = dict.fromkeys(text for text in texts if text != answer.text)
        tried.append(Group(group.prompt, (answer, *(_said(answer, text) for text in twins))))
    found = []
    for group, own in zip(tried, rewards(scorer, tried), strict=True):
        gains = own[1:] - own[0]
        if np.isfinite(gains).any() and np.nanmax(gains) >= 0:
            twin = 1 + int(np.nanargmax(gains))
            pair = replace(
                group, answers=(group.answers[0], group.answers[twin]), comparisons=(Comparison(0, 1),)
            )
            found.append((float(gains[twin - 1]), pair))
    return found


def _said(answer: Answer, text: str) -> Answer:
    """The text in the answer's form."""
    return Answer(text if isinstance(answer.content, str) else (Message("assistant", text),))
