"""What cannot come to anything as it is set, said before the first step."""

from __future__ import annotations

import numpy as np

from holdtrue.health.advice import Alarm
from holdtrue.health.symptoms import SYMPTOMS
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.samples import Samples
from holdtrue.policy.settings import GuardSettings


def blind_guard(decoding: Decoding) -> str | None:
    """Why the loop guard can end no answer, and what would let it; None where it can, or is off."""
    rule, longest = decoding.loop, decoding.max_new_tokens
    if rule is None:
        return None
    copies = rule.min_pattern_size * rule.min_count
    if max(copies, rule.min_cover) <= longest:
        return None
    why, fix = f"a loop covers decoding.loop.min_cover={rule.min_cover} tokens", "set "
    if copies > longest:
        why = (
            f"decoding.loop.min_count={rule.min_count} copies of min_pattern_size={rule.min_pattern_size} "
            f"tokens take {copies}"
        )
    else:
        fix += f"decoding.loop.min_cover={max(1, longest * 3 // 4)}, or "
    return (
        f"the loop guard cannot act: {why}, and answers have at most decoding.max_new_tokens={longest}; "
        f"{fix}decoding.loop=null to do without"
    )


def endless(samples: Samples, guard: GuardSettings, decoding: Decoding) -> Alarm | None:
    """An alarm of step 0 where ``no_end_reward`` makes most groups of the reference's answers worth the same.

    The monitor takes what the reference does for usual, so it would never say that all answers are cut. None
    for groups of one, in which no answer is told from another.
    """
    if guard.no_end_reward is None or samples.group == 1:
        return None
    finish = np.array(samples.finish).reshape(-1, samples.group)
    # what else did not end by itself gets its reward from the guard, or is left out by it
    cut = finish != "stop" if guard.on_hit == "none" else finish == "length"
    other = finish == "stop" if guard.on_hit == "exclude" else ~cut
    alike, groups = int((cut.any(1) & ~other.any(1)).sum()), len(finish)
    if 2 * alike < groups:
        return None
    symptom = SYMPTOMS["truncated"]
    return Alarm(
        metric="truncated",
        severity="warn",
        step=0,
        onset_step=0,
        value=float(cut.mean()),
        calibration=float(cut.mean()),
        cause=symptom.cause,
        why=f"no answer ends in {alike} of {groups} groups of the reference, so all of such a "
        f"group get guard.no_end_reward {guard.no_end_reward:g} and nothing tells them apart",
        fix=f"raise decoding.max_new_tokens ({decoding.max_new_tokens}), teach the policy to end first "
        "(holdtrue sft), or leave out guard.no_end_reward",
    )
