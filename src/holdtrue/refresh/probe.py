"""What a reward model makes of a policy's answers, as telemetry needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdtrue.records import Group
from holdtrue.refresh import telemetry
from holdtrue.refresh.answers import log_ratios
from holdtrue.refresh.context import Floats, rewards
from holdtrue.refresh.hidden import states
from holdtrue.refresh.telemetry import Shift
from holdtrue.reward.ensemble import EnsembleScorer
from holdtrue.reward.scorer import RewardScorer, StreamingScorer
from holdtrue.tokens.conversation import Encoder


@dataclass(frozen=True)
class Probe:
    """Groups and, for each, what a model and those beside it say of its answers.

    Attributes:
        rewards: (K,) of each group.
        members: the same by each member of an ensemble.
        states: (K, D) where a single model gives them.
        held_out: (K,) by another model.
    """

    groups: Sequence[Group]
    rewards: Sequence[Floats]
    members: Sequence[Sequence[Floats]] = ()
    states: Sequence[Floats] | None = None
    held_out: Sequence[Floats] | None = None


def probe(scorer: StreamingScorer, groups: Sequence[Group], held_out: StreamingScorer | None = None) -> Probe:
    """Let a model, its members and another model read groups of answers."""
    members = scorer.scorers if isinstance(scorer, EnsembleScorer) else ()
    located = None
    if isinstance(scorer, RewardScorer) and isinstance(scorer.encoder, Encoder):
        located = states(scorer, groups) if "hidden" in scorer.loaded.model.kind.gives else None
    return Probe(
        groups,
        rewards(scorer, groups),
        [rewards(member, groups) for member in members],
        located,
        rewards(held_out, groups, "held-out model") if held_out is not None else None,
    )


def shift(own: Probe, reference: Probe, labelled: Sequence[Group] | None = None) -> Shift:
    """How far the answers of one probe lie from those of the reference policy.

    ``labelled``: the groups of ``own`` with comparisons.
    """
    both_states = own.states is not None and reference.states is not None
    both_held = own.held_out is not None and reference.held_out is not None
    return telemetry.measure(
        own.rewards,
        reference=reference.rewards,
        log_ratios=log_ratios(own.groups),
        members=(own.members, reference.members) if own.members else None,
        states=(own.states, reference.states) if both_states else None,  # type: ignore[arg-type]
        held_out=(own.held_out, reference.held_out) if both_held else None,  # type: ignore[arg-type]
        labelled=labelled,
    )
