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
    if rule is None or rule.min_cover <= longest:
        return None
    return (
        f"the loop guard cannot act: a loop covers decoding.loop.min_cover={rule.min_cover} tokens, and "
        f"answers have at most decoding.max_new_tokens={longest}; set decoding.loop.min_cover="
        f"{max(1, longest * 3 // 4)}, or decoding.loop=null to do without"
    )


def endless(samples: Samples, guard: GuardSettings, decoding: Decoding) -> Alarm | None:
    """An alarm of step 0 where ``no_end_reward`` makes most groups of the reference's answers worth the same.

    The monitor takes what the reference does for usual, so it would never say that all answers are cut.
    """
    if guard.no_end_reward is None:
        return None
    cut = np.array([finish != "stop" for finish in samples.finish])
    groups = cut.reshape(-1, samples.group)
    alike = int(groups.min(1).sum())
    if 2 * alike < len(groups):
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
        why=f"no answer ends in {alike} of {len(groups)} groups of the reference, so all of such a "
        f"group get guard.no_end_reward {guard.no_end_reward:g} and nothing tells them apart",
        fix=f"raise decoding.max_new_tokens ({decoding.max_new_tokens}), teach the policy to end first "
        "(holdtrue sft), or leave out guard.no_end_reward",
    )
