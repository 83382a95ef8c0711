"""What a round tells of itself: shift before and after the refresh, how the answers look, whether to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from holdtrue.doctor.rollouts import DEGENERATE, examine
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.intervals import wilson
from holdtrue.records import Group, Rollout
from holdtrue.refresh.context import rewards
from holdtrue.refresh.probe import Probe, probe, shift
from holdtrue.refresh.telemetry import pair_accuracy
from holdtrue.reward.scorer import StreamingScorer
from holdtrue.rounds.settings import RoundsSettings
from holdtrue.rundir import RunDir, standing


@dataclass(frozen=True)
class Means:
    """Mean rewards of a policy's fresh answers: by the model the next round is optimised against, and by the
    held-out model."""

    reward: float
    held_out: float | None = None


def means(found: Probe) -> Means:
    """Of all answers with a reward."""
    return Means(_mean(found.rewards), None if found.held_out is None else _mean(found.held_out))


def of_round(
    settings: RoundsSettings,
    scorers: Mapping[str, StreamingScorer],
    groups: Sequence[Group],
    reference: Sequence[Group],
    judged: Sequence[Group],
    last: Means,
    held_out: StreamingScorer | None,
) -> dict[str, Any]:
    """Shift by the model the policy was optimised against (``before``) and by the refreshed one (``after``).

    Args:
        scorers: both models; the same object where the refresh kept it.
        judged: further answers of the policy with labels.
        last: what the first of them and the held-out model said when the round began.

    Returns:
        ``before``, ``after`` (a shift each, ``accuracy`` of ``judged``), ``means`` for the next round, and
        ``stopped``: why the rounds should end, or None.
    """
    found: dict[str, Any] = {}
    probes: dict[str, Probe] = {}
    for when, scorer in scorers.items():
        if when == "after" and scorer is scorers["before"]:
            probes[when], found[when] = probes["before"], found["before"]
            continue
        probes[when] = probe(scorer, groups, held_out)
        found[when] = shift(probes[when], probe(scorer, reference, held_out)).as_json()
        found[when] |= _accuracy(scorer, judged)
    now = means(probes["before"])
    found["reward"] = {"from": last.reward, "to": now.reward}
    found["held_out"] = {"from": last.held_out, "to": now.held_out}
    begins = probe(scorers["after"], reference, held_out) if settings.restart else probes["after"]
    found["means"] = asdict(means(begins))
    found["alarm"] = _alarm(settings, found["after"], last, now)
    found["stopped"] = found["alarm"] if settings.stop.action == "stop" else None
    return found


def _accuracy(scorer: StreamingScorer, judged: Sequence[Group]) -> dict[str, Any]:
    if not judged:
        return {}
    right, count = pair_accuracy(rewards(scorer, judged), judged)
    if not count:
        return {"labels": 0}
    low, high = wilson(right, count)
    return {"accuracy": right / count, "low": low, "high": high, "labels": count}


def _alarm(settings: RoundsSettings, after: Mapping[str, Any], last: Means, now: Means) -> str | None:
    rule = settings.stop
    if after["high"] is not None and after["high"] < rule.accuracy:
        seen = f"{after['accuracy']:.3f} (at most {after['high']:.3f})"
        return f"accuracy on the policy's answers is {seen}, below {rule.accuracy:g}"
    if last.held_out is None or now.held_out is None:
        return None
    if now.held_out < last.held_out and now.reward > last.reward:
        return (
            f"the held-out reward fell from {last.held_out:.3f} to {now.held_out:.3f} while the reward rose"
        )
    return None


def of_optimisation(run: RunDir) -> dict[str, Any]:
    """How a round's policy optimisation went: means of its first and last steps, and how it ended."""
    steps = [row for row in standing(run.metrics()) if row["event"] == "train"]
    info = run.info()
    part = max(1, len(steps) // 5)
    told: dict[str, Any] = {
        name: {"first": _known(steps[:part], name), "last": _known(steps[-part:], name)}
        for name in ("reward", "kl", "length", "entropy")
    }
    return told | {name: info["ended"][name] for name in ("steps", "stopped", "alarms", "guarded", "skipped")}


def of_health(answers: Sequence[Rollout], policy: str) -> dict[str, Any]:
    """Share of degenerate answers with its 95 % interval, and of those each detector flagged."""
    found = examine(answers, Vocabulary.of(policy))
    bad = found.rates[DEGENERATE]["count"]
    low, high = wilson(bad, len(answers))
    flagged = {name: one["rate"] for name, one in found.rates.items() if one["count"] and name != DEGENERATE}
    return {"rate": bad / len(answers), "low": low, "high": high, "answers": len(answers), "flagged": flagged}


def _known(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row.get(name) is not None]
    return sum(known) / len(known) if known else None


def _mean(found: Sequence[Any]) -> float:
    return float(np.nanmean(np.concatenate([np.asarray(own) for own in found])))
