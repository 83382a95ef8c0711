"""Causes: what evidence of several kinds says together, the best supported first.

A cause is supported by rows (what detectors found), by signals over many rows, and by findings of the
static checks and of the reward audit where their JSON is given; that a finding of the data is about the very
token the rollouts are full of counts as one more. It is ranked by how many of these kinds of evidence speak
for it, then by the share of degenerate rows it explains. No probabilities are made up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from holdtrue.doctor.rollouts import DEGENERATE, Examination, fails
from holdtrue.errors import DataError
from holdtrue.intervals import normal


@dataclass(frozen=True)
class Cause:
    """A cause, the findings that speak for it, and what mends it."""

    id: str
    what: str
    fix: str
    detectors: frozenset[str]
    signals: frozenset[str]
    static: frozenset[str]
    """Ids of static checks and of the reward audit."""
    needs: frozenset[str] = frozenset()
    """Findings without one of which the cause is not named: the rest can have other causes."""


OF_TOKENS = frozenset({"X01", "X10", "C06"})
"""Checks that find tokens in the data: of several findings those of tokens in the rollouts count."""
_RARE = 0.01
"""Of the flagged rows: a detector that fires less often does not name a cause."""


def _cause(
    id: str, what: str, fix: str, *, rows: str = "", signals: str = "", static: str = "", needs: str = ""
) -> Cause:
    parts = (frozenset(part.split()) for part in (rows, signals, static, needs))
    return Cause(id, what, fix, *parts)


CAUSES = (
    _cause(
        "numerics",
        "The forward pass overflows or reads wrong positions: NaN logits, tokens a model family falls into.",
        "bfloat16 instead of float16, sdpa or FlashAttention instead of eager, padding on the left. "
        "No penalty on repetition can mend it.",
        rows="nan_logits attractor_token mojibake",
        static="W05 T06",
        needs="nan_logits attractor_token W05",
    ),
    _cause(
        "engine_differs_from_trainer",
        "The engine samples from other weights or another cache than the trainer trains.",
        "Reset the prefix cache with every weight update; correct with truncated importance sampling.",
        rows="nan_logits",
        signals="GAP_TREND",
        static="D06 D07",
        needs="GAP_TREND",
    ),
    _cause(
        "phantom_ids_unmasked",
        "The logits have more rows than the tokenizer has tokens, and they are not masked.",
        "Mask every id from the tokenizer's length on, in the sampler and in training.",
        rows="phantom_token",
        static="T04",
        needs="phantom_token",
    ),
    _cause(
        "tool_says_too_little",
        "The tool's errors do not say what to change, so the policy repeats its call.",
        "Say in the error what was wrong and what would be right; end rollouts that repeat a call.",
        rows="tool_error_loop",
        needs="tool_error_loop",
    ),
    _cause(
        "blind_reward",
        "The reward does not see the junk, or takes too little for it to pull the policy back.",
        "The lowest reward for junk: veto for control tokens and text after the last tag, ngram_penalty for "
        "loops in plain text; then audit it again (holdtrue doctor reward). A KL term keeps a habit that the "
        "reference has too.",
        rows="ctrl_token_in_body reward_blind_suffix tail_cycle near_loop",
        signals="REWARD_BLIND ADVANTAGE_ON_JUNK",
        static="R01 R02 R03 R05",
        needs="reward_blind_suffix REWARD_BLIND R01 R02 R03 R05",
    ),
    _cause(
        "data_teach_it",
        "The data teach it: targets hold the control tokens, turns or rare tokens that answers break into.",
        "Remove such targets (drop_control), and neutralise control strings that are quoted; where the texts "
        "are already templated (C06), give messages instead; then train again from before these data.",
        rows="ctrl_token_in_body attractor_token",
        static=" ".join(sorted(OF_TOKENS)),
        needs=" ".join(sorted(OF_TOKENS)),
    ),
    _cause(
        "control_tokens_can_be_sampled",
        "Control tokens are not banned when sampling, and the policy has learned to use them.",
        "Ban control and phantom ids in the sampler, never the end tokens, and renormalise the "
        "log-probabilities in training the same way.",
        rows="ctrl_token_in_body",
        static="D04 C07 T04",
        needs="ctrl_token_in_body",
    ),
    _cause(
        "turn_end_not_learned",
        "The policy does not know where its turn ends: the end token is no target, or not the declared one.",
        "Agree on the end tokens (T01), keep them in the loss (T02, C05, X02), and stop on all of them.",
        rows="role_continuation ctrl_token_in_body eos_in_think",
        signals="SEVERAL_ENDS",
        static="T01 T02 C01 C05 X02 X04 W01 W02 W03 W06",
        needs="role_continuation SEVERAL_ENDS T01 T02 C05 X02 W01 W02 W06",
    ),
    _cause(
        "loops_taught_or_unpunished",
        "Answers repeat themselves: learned from repeated targets, or never punished.",
        "Abort loops while they are sampled and leave them out of the update; remove repeated targets; stop "
        "early on text metrics, not on the reward.",
        rows="tail_cycle near_loop",
        signals="GROUP_COLLAPSE",
        static="X03 X09 R03 K01 D01",
        needs="tail_cycle near_loop",
    ),
    _cause(
        "limit_too_short",
        "The length limit cuts answers that would have ended.",
        "Raise the limit on new tokens; mask cut answers instead of punishing them.",
        signals="TRUNCATION",
        static="D05 X04 R07",
        needs="TRUNCATION",
    ),
    _cause(
        "exploration_ended",
        "All answers to a prompt are the same: there is no advantage left to learn from.",
        "A higher temperature or entropy term, or an earlier checkpoint.",
        signals="GROUP_COLLAPSE",
        needs="GROUP_COLLAPSE",
    ),
)
"""Of causes that are supported alike the more special comes first."""


def rank(examination: Examination, static: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The causes that the evidence supports, the best first.

    Args:
        examination: of the rollouts.
        static: findings of ``doctor check --json`` and ``doctor reward --json``, as plain values.

    Returns:
        ``{"cause", "what", "fix", "explains", "kinds", "evidence": [...]}``; ``explains`` is the share of
        degenerate rows with one of its detectors, ``kinds`` of evidence are ``rows, signals, static``, and
        ``token`` where a finding of the data names a control token that was found in the rows.
    """
    signals = {one.id: one.evidence for one in examination.signals if one.severity != "ok"}
    tokens = _tokens(examination)
    found = _bad(static, tokens)
    flagged = [row for row in examination.rows if row.flags]
    counts = Counter(name for row in flagged for name in {flag.detector for flag in row.flags})
    fired = {name for name, count in counts.items() if count >= _RARE * len(flagged)}
    looping = any(
        one.id == "TRUNCATION" and one.values["loops"] > one.values["cut"] / 2 for one in examination.signals
    )
    result = []
    for cause in CAUSES:
        if not cause.needs & ({*signals, *found} | fired) or (cause.id == "limit_too_short" and looping):
            continue
        explained = [row for row in flagged if any(flag.detector in cause.detectors for flag in row.flags)]
        parts = {
            "rows": _of_rows(examination, cause.detectors & fired),
            "signals": [f"{id}: {signals[id]}" for id in sorted(cause.signals & set(signals))],
            "static": [f"{id}: {line}" for id in sorted(cause.static & set(found)) for line in found[id]],
        }
        told = [line for id in cause.static & OF_TOKENS for line in found.get(id, ())]
        kinds = [kind for kind, evidence in parts.items() if evidence]
        kinds += ["token"] if any(token in line for line in told for token in tokens) else []
        result.append(
            {
                "cause": cause.id,
                "what": cause.what,
                "fix": cause.fix,
                "explains": len(explained) / len(flagged) if flagged else 0.0,
                "kinds": kinds,
                "evidence": [line for evidence in parts.values() for line in evidence],
            }
        )
    return sorted(result, key=lambda one: (-len(one["kinds"]), -one["explains"]))


def _tokens(examination: Examination) -> set[str]:
    """The tokens that rows fail for, as findings of the data write them: ``<|im_start|>``, ``(151644)``."""
    found = set()
    for row in examination.rows:
        for flag in row.flags:
            if flag.severity == "fail" and flag.detector in ("ctrl_token_in_body", "attractor_token"):
                said = {flag.signature.split()[-1], *flag.values.get("counts", ())}
                found |= {f"({one})" if one.isdigit() else one for one in said}
    return found


def _bad(static: Iterable[Mapping[str, Any]], tokens: Iterable[str]) -> dict[str, list[str]]:
    """What findings that warn or fail say, by id; of several about tokens those of the rollouts.

    That words of a user may become control tokens (C07) is evidence only where words of the data do.
    """
    found: dict[str, list[str]] = {}
    for one in static:
        id, values = str(one.get("id")), one.get("values") or {}
        if one.get("severity") in ("warn", "fail") and (id != "C07" or values.get("examples")):
            found.setdefault(id, []).append(str(one.get("evidence")))
    for id in OF_TOKENS & found.keys():
        same = [line for line in found[id] if any(token in line for token in tokens)]
        found[id] = same or found[id]
    return found


def _of_rows(examination: Examination, detectors: Iterable[str]) -> list[str]:
    lines = []
    for name in sorted(detectors):
        rows = [row for row in examination.rows if any(flag.detector == name for flag in row.flags)]
        first = next(flag for flag in rows[0].flags if flag.detector == name)
        share = f"{len(rows)} of {len(examination.rows)} answers"
        lines.append(f"{name}: {share}, as {rows[0].at}: {first.evidence}")
    return lines


def chain(examination: Examination, policies: Sequence[str]) -> list[dict[str, Any]]:
    """Rates along a chain of checkpoints, such as reference, previous, current: each less the one before.

    Answers are paired by prompt (several answers to a prompt are averaged), and the 95 % interval of the
    difference is normal over prompts. A fault that the first already has comes from there; one that only
    a later one has, from the step between them.
    """
    known = {row.rollout.policy for row in examination.rows}
    for policy in policies:
        if policy not in known:
            raise DataError(
                f"no rollouts of policy {policy!r}; there are {', '.join(sorted(map(str, known)))}"
            )
    by_prompt: dict[str, dict[str, list[bool]]] = {policy: {} for policy in policies}
    for row in examination.rows:
        if row.rollout.policy in by_prompt:
            by_prompt[row.rollout.policy].setdefault(row.rollout.prompt_key, []).append(
                fails(row, DEGENERATE)
            )
    return [_step(by_prompt, before, after) for before, after in pairwise(policies)]


def _step(by_prompt: Mapping[str, Mapping[str, Sequence[bool]]], before: str, after: str) -> dict[str, Any]:
    prompts = by_prompt[before].keys() & by_prompt[after].keys()
    differences = [fmean(by_prompt[after][key]) - fmean(by_prompt[before][key]) for key in sorted(prompts)]
    rates = {
        name: fmean([one for seen in by_prompt[name].values() for one in seen]) for name in (before, after)
    }
    result: dict[str, Any] = {"from": before, "to": after, "prompts": len(prompts)}
    result |= {"rate_from": rates[before], "rate_to": rates[after], "difference": None, "interval": None}
    if len(differences) > 1:
        result |= {"difference": fmean(differences), "interval": [*normal(differences)]}
    result["reading"] = _read(result)
    return result


def _read(step: Mapping[str, Any]) -> str:
    if step["interval"] is None:
        return "no prompts in common"
    low, high = step["interval"]
    if low > 0:
        return f"new with {step['to']}" if step["rate_from"] < 0.01 else f"more with {step['to']}"
    if high < 0:
        return f"less with {step['to']}"
    return "no clear change" if step["rate_from"] < 0.01 else f"{step['from']} has it already"
