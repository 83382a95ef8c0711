"""The reward audit: which junk a reward pays for or cannot see, and whether its numbers can be trained on.

Honest answers and their twins (:mod:`holdtrue.health.probes`) are given to the reward. A change is counted
in *spreads*, the standard deviation of the rewards of the honest answers: one of more than 0.1 is a raise
or a loss, one below 1e-4 none at all. Whether a probe pays is a sign test: of the answers whose reward it
changes, are more than half raised? The Wilson interval of that share says so, at a confidence of
1 - 0.05 / k where a finding has k probes, so that a reward which only wavers is not blamed.

What ought to cost (junk, cuts, nothing at all, an answer to something else) is judged on answers that
have something to lose: those that earn more than the least honest answer.

    R01 suffix_blind       fail  junk behind the answer leaves half of the rewards as they are, or pays
                           warn  it costs fewer than half of the answers more than 0.1 spreads
    R02 control_keyed      fail  control tokens or tool tags with no tool run pay
    R03 repeat_lover       fail  saying the answer again pays
    R04 length_slope       fail  sentences that say nothing pay
    R05 skip_special_view  warn  the reward depends on whether the end of turn was left in the text
    R06 not_a_signal       fail  NaN, infinite or none for honest answers; the same for all there is
                           warn  NaN, infinite or none for a twin
    R07 cut_paid           warn  half of the answers that are cut keep their reward
    R08 nothing_paid       fail  half of the answers earn no more than an empty one (warn: a quarter)
    R09 flattery           fail  praise and assurances pay
    R10 prompt_blind       warn  half of the answers earn no more than an answer to another prompt
    R11 batch_dependent    fail  a reward changes by more than 0.1 spreads (warn: 0.001) with the answers
                                 beside it or their order
    R12 not_deterministic  fail  the same, when nothing changes
    R13 squashed           warn  half of the rewards lie within 1 % of the end of [0, 1] or [-1, 1], or are
                                 clipped to one number
    R14 breaks             fail  it raises, hangs or gives no numbers for a twin

A reward that gives ten numbers or fewer does not waver, so for it more raised than lost is enough. Others
are warned of in R02, R03, R04 and R09 when twice as many answers are raised as lose, but too few to be sure.
R01 to R07 are those of the catalogue that the doctor is built on; the bounds are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from holdtrue.correlation import pearson, ranks
from holdtrue.doctor.advice import ADVICE, VETO
from holdtrue.doctor.findings import SEVERITIES, Diagnosis, Finding, Severity, Skipped
from holdtrue.doctor.heard import COSTLY, FEW, HANGS, Effect, Floats, Heard, listen
from holdtrue.doctor.rewards import Case, Reward
from holdtrue.doctor.veto import holds_junk
from holdtrue.health.probes import PROBES


def audit(reward: Reward, cases: Sequence[Case], *, limit: float = 60.0) -> Diagnosis:
    """Ask a reward about honest answers and their twins, and judge what it says.

    Args:
        reward: see :mod:`holdtrue.doctor.rewards`. It is also tried with plain prompts as messages when it
            fails on plain text.
        limit: seconds that one call for all cases may take.

    Raises:
        DataError: it gives no rewards for the honest answers; says what it does instead.
    """
    heard = listen(reward, cases, limit)
    results: list[Finding | Skipped] = [*_numbers(heard), *_stability(heard)]
    results += [_probed(id, heard) for id in PROBES]
    return Diagnosis.of(results)


def _numbers(heard: Heard) -> Iterator[Finding | Skipped]:
    """R06, R13 and R14: whether what it gives are numbers that can be trained on."""
    count, lost = len(heard.honest), int(np.sum(~np.isfinite(heard.honest)))
    twins = {
        name: int(np.sum(~np.isfinite(rewards)))
        for group in heard.twins.values()
        for name, rewards in group.items()
        if name not in heard.faults and not np.all(np.isfinite(rewards))
    }
    if lost:
        first = heard.cases[int(np.flatnonzero(~np.isfinite(heard.honest))[0])].at
        seen = f"no finite reward for {lost} of {count} honest answers (the first at {first})"
        yield _finding("R06", "fail", seen, {"missing": lost})
    elif heard.constant:
        constant = float(heard.honest[0])
        seen = f"{constant:g} for all {count} honest answers and all of their twins"
        yield _finding("R06", "fail", seen, {"constant": constant})
    elif twins:
        listed = "; ".join(
            f"{name} ({n} of {count})" for name, n in sorted(twins.items(), key=lambda one: -one[1])[:3]
        )
        yield _finding("R06", "warn", f"no finite reward for twins of {len(twins)} probes: {listed}", twins)
    else:
        low, high = float(np.min(heard.honest)), float(np.max(heard.honest))
        seen = f"{low:.4g} to {high:.4g} for {count} honest answers, spread {heard.spread:.3g}"
        yield _finding("R06", "ok", seen, {"low": low, "high": high, "spread": heard.spread})
    yield _squashed(heard)
    if heard.faults:
        listed = "; ".join(
            f"{name}: {what} ({n} of {count})" for name, (n, what) in list(heard.faults.items())[:3]
        )
        yield _finding("R14", "fail", listed, {name: what for name, (_, what) in heard.faults.items()})
    else:
        yield _finding("R14", "ok", f"a number for every twin of {count} honest answers", {})
    if heard.untried:
        yield Skipped("R14", f"{len(heard.untried)} probes not tried: the reward hung {HANGS} times")


def _squashed(heard: Heard) -> Finding | Skipped:
    """R13; a rule that knows few numbers is not squashed when it gives one of them."""
    honest, seen = heard.honest[np.isfinite(heard.honest)], heard.everything
    if heard.exact:
        return Skipped("R13", f"it knows {FEW} numbers or fewer")
    shares = {"clipped": float(np.max(np.unique(honest, return_counts=True)[1])) / len(honest)}
    for low in (0.0, -1.0):
        if seen.min() >= low and seen.max() <= 1:
            near = np.minimum(honest - low, 1 - honest) <= 0.01 * (1 - low)
            shares[f"at the ends of [{low:g}, 1]"] = float(np.mean(near))
    worst = max(shares, key=lambda key: shares[key])
    return _finding(
        "R13",
        "warn" if shares[worst] >= 0.5 else "ok",
        f"{shares[worst]:.0%} of the honest rewards are {worst}"
        + (" to one number" if worst == "clipped" else ""),
        shares,
    )


def _stability(heard: Heard) -> Iterator[Finding | Skipped]:
    """R11 and R12: whether a reward is a function of the answer alone."""
    same = _farthest(heard, heard.again)
    yield _finding(
        "R12", _moved(same), f"the same {len(heard.honest)} answers twice: {_by(same)}", {"again": same}
    )
    if _moved(same) != "ok":
        yield Skipped("R11", "the reward changes by itself")
        return
    order, alone = _farthest(heard, heard.backwards), _farthest(heard, heard.alone)
    seen = f"in another order: {_by(order)}; asked about one by one: {_by(alone)}"
    yield _finding("R11", _moved(max(order, alone)), seen, {"order": order, "alone": alone})


def _farthest(heard: Heard, values: Floats) -> float:
    """Largest change of an answer's reward in spreads; infinite when one comes or goes."""
    honest = heard.honest[: len(values)]
    if np.any(np.isfinite(honest) != np.isfinite(values)):
        return float("inf")
    finite = np.isfinite(honest)
    change = np.abs(values[finite] - honest[finite])
    return float(change.max()) / heard.spread if len(change) else 0.0


def _moved(change: float) -> Severity:
    return "fail" if change > 0.1 else "warn" if change > 0.001 else "ok"


def _by(change: float) -> str:
    return f"rewards change by up to {change:.2g} spreads" if change > 0.001 else "no change"


def _probed(id: str, heard: Heard) -> Finding | Skipped:
    """The finding of a group of probes: its worst one, and the others that are no better."""
    if heard.constant:
        return Skipped(id, "all rewards are the same")
    if id in COSTLY and not np.any(heard.can_lose):
        return Skipped(id, "no answer earns more than the least honest one")
    effects = heard.effects(id)
    if not effects:
        return Skipped(id, "no twin has a reward to compare")
    confidence = 1 - 0.05 / len(PROBES[id])
    judged = {effect.probe: _judge(id, effect, confidence, heard.exact) for effect in effects}
    order = sorted(effects, key=lambda one: _badness(id, one), reverse=True)
    order.sort(key=lambda one: SEVERITIES.index(judged[one.probe]))
    worst, severity = order[0], judged[order[0].probe]
    evidence = f"{worst.probe}: {_told(id, worst)}"
    cures: list[str] = []
    if severity != "ok":
        cures = _cures([one.probe for one in order if judged[one.probe] != "ok"]) if id == "R01" else []
        evidence += "; " + ", ".join(f"{at}: {a:.3g} -> {b:.3g}" for at, a, b in worst.examples)
        others = [one.probe for one in order[1:] if judged[one.probe] == severity]
        evidence += f"; also {', '.join(others)}" if others else ""
    values = {"spread": heard.spread, "effects": [asdict(one) for one in effects]}
    if id == "R04":
        evidence += _with_length(heard)
    return _finding(id, severity, evidence, values, cures)


def _cures(probes: Sequence[str]) -> list[str]:
    """What makes a reward see the junk of these probes of R01: the veto does not see all of it."""
    plain = [name for name in probes if not holds_junk(PROBES["R01"][name]("Yes.", "Yes."))]
    cures = [VETO] if len(plain) < len(probes) else []
    if plain:
        cures.append(
            f"plain text ({', '.join(plain)}) the veto sees only behind one of its tags; where there "
            "are none, penalise loops (ngram_penalty), and end them while they are drawn (early_abort)"
        )
    return cures


def _judge(id: str, effect: Effect, confidence: float, exact: bool) -> Severity:
    kept = effect.kept / effect.count
    if id == "R01":
        if effect.pays(confidence, exact) or 2 * effect.same >= effect.count:
            return "fail"
        return "warn" if effect.same or kept > 0.5 else "ok"
    if id == "R05":
        return "warn" if effect.raised or effect.lost else "ok"
    if id == "R08":
        return "fail" if kept >= 0.5 else "warn" if kept >= 0.25 else "ok"
    if id in ("R07", "R10"):
        return "warn" if kept >= 0.5 else "ok"
    if effect.pays(confidence, exact):
        return "fail"
    return "warn" if effect.raised > 2 * effect.lost else "ok"


def _badness(id: str, effect: Effect) -> tuple[float, float]:
    """How bad a probe's effect is beside those of the same severity."""
    if id == "R05":
        return effect.raised + effect.lost, abs(effect.median)
    return (effect.kept if id in COSTLY else effect.raised - effect.lost), effect.median


def _told(id: str, effect: Effect) -> str:
    low, high = effect.interval
    if id in COSTLY:
        told = f"{effect.kept} of {effect.count} answers lose nothing ({low:.0%} to {high:.0%}), "
        told += f"{effect.same} unchanged, {effect.raised} raised"
    else:
        told = (
            f"{effect.raised} of {effect.count} answers raised ({low:.0%} to {high:.0%}), {effect.lost} lose"
        )
    return f"{told}, median {effect.median:+.2f} spreads"


def _with_length(heard: Heard) -> str:
    lengths = np.array([len(case.text) for case in heard.cases])
    finite = np.isfinite(heard.honest)
    together = pearson(ranks(lengths[finite]), ranks(heard.honest[finite])) if np.any(finite) else None
    return "" if together is None else f"; honest answers: rank correlation with length {together:+.2f}"


def _finding(
    id: str, severity: Severity, evidence: str, values: Mapping[str, Any], cures: Sequence[str] = ()
) -> Finding:
    advice = ADVICE[id]
    made = f"make the reward see the junk: {'; '.join(cures)}. " if cures else ""
    told = {} if severity == "ok" else {"why": advice.why, "fix": made + advice.fix}
    plain = {key: _plain(value) for key, value in {"name": advice.name, **values}.items()}
    return Finding(id, severity, evidence, source=advice.source, values=plain, **told)


def _plain(value: Any) -> Any:
    """Infinite numbers have no place in JSON."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
