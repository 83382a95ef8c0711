"""Watches the rollouts of a training run, and says when their text goes wrong, since when, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from holdtrue.errors import DataError, SettingsError, unknown
from holdtrue.health.advice import Actions, Advice, Alarm, Example, Severity, advise
from holdtrue.health.batch import NOT_BY_ROW, Batch, Seen, observe
from holdtrue.health.changes import Limit, State, advance, baseline, start, trend
from holdtrue.health.metrics import Floats
from holdtrue.health.stream import RepetitionDetection
from holdtrue.health.symptoms import GAP_TREND, NUMERICS, SCORE_UP_TEXT_DOWN, SYMPTOMS, Symptom
from holdtrue.health.vocabulary import Vocabulary

ENOUGH = 64
"""Rollouts a calibration needs: with fewer, the spread of rates is a guess."""
HISTORY = 64
"""Steps that are kept for trends."""
TREND = 10
"""Steps over which a reward must rise while the text gets worse."""
EVALUATIONS = 6
"""Evaluations on held-out prompts from which on a trend of them is believed."""
SURE = 4.0
"""t value of a trend that is believed; it is looked for at every step and in every metric."""


class Monitor:
    """Watches a training run through its batches of rollouts.

    ::

        monitor = Monitor(Vocabulary.of(tokenizer, eos=model.generation_config.eos_token_id))
        monitor.calibrate(Batch(ids=reference_ids, step=0))
        for step, ... in ...:
            for alarm in monitor.update(Batch(ids=completion_ids, rewards=rewards, step=step)):
                print(alarm)

    Without a calibration only limits and trends alarm. Nothing is changed in the run: :meth:`advise` says
    what the :class:`~holdtrue.health.advice.Actions` it was given come to.

    Attributes:
        values: metric -> its mean over the last batch, for logs.
        seen: what was seen in the rows of the last batch.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        actions: Actions | None = None,
        rule: RepetitionDetection | None = None,
        near: RepetitionDetection | None = None,
        limits: Mapping[str, Limit] | None = None,
    ) -> None:
        """Watch rollouts of a tokenizer.

        Args:
            vocabulary: what its ids mean.
            actions: what :meth:`advise` may advise; nothing by default.
            rule, near: when a row loops, exactly or but for its numbers.
            limits: metric -> when it is worse, in place of that of ``symptoms.SYMPTOMS``.
        """
        for name in limits or {}:
            if name not in SYMPTOMS:
                raise SettingsError(unknown("metric", name, SYMPTOMS))
        self.vocabulary, self.rule, self.near = vocabulary, rule, near
        self.actions = actions or Actions()
        self.symptoms = {
            name: replace(symptom, limit=(limits or {}).get(name, symptom.limit))
            for name, symptom in SYMPTOMS.items()
        }
        self.values: dict[str, float] = {}
        self.seen: Seen | None = None
        self._finish: Any = None
        self._alarms: list[Alarm] = []
        self._reference: dict[str, State | None] = {}
        self._usual_length: float | None = None
        self._changes: dict[str, State] = {name: start() for name in SYMPTOMS}
        self._history: list[dict[str, float]] = []
        # Metric -> the last step at which its trend was bad.
        self._trends: dict[str, int] = {}
        self._held_out: list[dict[str, float]] = []
        self._reset_seen = False

    def calibrate(self, *batches: Batch) -> None:
        """Learn what is usual from rollouts of the reference model, of the same prompts and settings.

        Raises:
            DataError: fewer than 64 rollouts.
        """
        rows = sum(len(batch.ids) for batch in batches)
        if rows < ENOUGH:
            raise DataError(f"a calibration needs {ENOUGH} rollouts of the reference model; seen {rows}")
        seen = [observe(batch, self.vocabulary, self.rule, self.near) for batch in batches]
        for name, symptom in self.symptoms.items():
            metric = symptom.metric or name
            parts = [_units(b, s, metric) for b, s in zip(batches, seen, strict=True) if metric in s.values]
            if parts:
                values = np.concatenate(parts)
                size = 1 if metric in NOT_BY_ROW else rows / max(len(values), 1)
                self._reference[name] = baseline(values, share=symptom.limit.share, rows=size)
        self._usual_length = float(np.quantile(np.concatenate([s.values["length"] for s in seen]), 0.95))

    def update(self, batch: Batch) -> list[Alarm]:
        """Take the rollouts of a step; the alarms they raise, the gravest first. A change alarms once."""
        seen = observe(batch, self.vocabulary, self.rule, self.near)
        self.seen, self._finish, self._alarms = seen, batch.finish, []
        units = {name: _units(batch, seen, name) for name in seen.values}
        self.values = {name: float(values.mean()) for name, values in units.items() if len(values)}
        self._remember(batch)
        for name, symptom in self.symptoms.items():
            metric = symptom.metric or name
            if metric not in self.values:
                continue
            value, reference = self.values[metric], self._reference.get(name)
            self._changes[name], alarms = advance(
                self._changes[name], symptom.limit, reference, value, len(units[metric]), batch.step
            )
            if alarms:
                since = self._changes[name]["since"]
                severity: Severity = "fail" if symptom.limit.beyond(value) else "warn"
                told = self._explain(name, symptom, seen)
                if told.cause != symptom.cause and severity == "warn" and self._stands(told.cause):
                    continue
                self._raise(name, told, severity, batch.step, since)
        self._watch_gap(batch.step)
        self._watch_reward(batch.step)
        # One alarm for each cause: a loop shows in several metrics. "fail" sorts before "warn".
        by_cause: dict[str, Alarm] = {}
        for alarm in sorted(self._alarms, key=lambda alarm: alarm.severity):
            by_cause.setdefault(alarm.cause, alarm)
        self._alarms = list(by_cause.values())
        return list(self._alarms)

    def update_held_out(self, batch: Batch) -> list[Alarm]:
        """Take answers to held-out prompts with rewards: warns when these rise while the text gets worse.

        They tell how good the policy is where the rewards of a step cannot: win rates within a group are
        1/2 on average, those against fixed answers rise. It takes 6 evaluations.
        """
        seen = observe(batch, self.vocabulary, self.rule, self.near)
        units = {name: _units(batch, seen, name) for name in seen.values}
        means = {name: float(values.mean()) for name, values in units.items() if len(values)}
        recent = [*self._held_out[1 - TREND :], {**means, "step": batch.step}]
        self._held_out = recent
        worse = list(self._worse_as_paid(recent)) if len(recent) >= EVALUATIONS else []
        news = [name for name in worse if f"held out {name}" not in self._trends]
        self._trends |= {f"held out {name}": batch.step for name in worse}
        return [self._score_up(name, "warn", seen, means, recent) for name in news[:1]]

    def advise(self) -> Advice:
        """What to do with the last batch, and after it, by the actions that were asked for."""
        if self.seen is None:
            raise DataError("advice is about a batch; call update first")
        return advise(self.actions, self.seen, self._alarms, self._finish, self.healthy_step)

    @property
    def onset_step(self) -> int | None:
        """Where the first change that now stands alarmed began; None when all is well."""
        since = [state["since"] for state in self._changes.values() if state["alarmed"]]
        return min(since + [alarm.onset_step for alarm in self._alarms], default=None)

    @property
    def healthy_step(self) -> int | None:
        """The last step seen before any change that now stands alarmed began; None when there is none."""
        onset = self.onset_step
        steps = [int(past["step"]) for past in self._history if onset is None or past["step"] < onset]
        return max(steps, default=None)

    @property
    def possible_onsets(self) -> set[int]:
        """Steps seen that an alarm yet to come may name as its onset: where a change that is under way began,
        and those a trend is read from (the engine's drift alone may reach back further)."""
        under_way = {state["since"] for state in self._changes.values() if state["since"] is not None}
        return under_way | {int(past["step"]) for past in self._history[1 - TREND :]}

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`update` builds on, as plain JSON values."""
        return {
            "reference": self._reference,
            "usual_length": self._usual_length,
            "changes": self._changes,
            "history": self._history,
            "trends": self._trends,
            "held_out": self._held_out,
            "reset_seen": self._reset_seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another monitor."""
        missing = set(self.state_dict()) - set(state)
        if missing:
            raise DataError(f"the monitor's state lacks {', '.join(sorted(missing))}")
        self._reference = {name: one and dict(one) for name, one in state["reference"].items()}
        self._usual_length = state["usual_length"]
        self._changes = {name: dict(state["changes"].get(name, start())) for name in SYMPTOMS}
        self._history = [dict(past) for past in state["history"]]
        self._trends = dict(state["trends"])
        self._held_out = [dict(past) for past in state["held_out"]]
        self._reset_seen = state["reset_seen"]
        self._alarms = []

    def _remember(self, batch: Batch) -> None:
        past = self._history[-1] if self._history else {}
        now = {name: value for name, value in self.values.items() if math.isfinite(value)}
        floor = self.symptoms["gap"].limit.floor
        fell = past.get("gap", 0.0) - now.get("gap", math.inf)
        if batch.restarted or (fell >= floor and fell >= past["gap"] / 2):
            self._reset_seen |= fell >= floor
            now["reset"] = 1.0
            self._changes["gap"] = start()
        self._history = [*self._history[1 - HISTORY :], {**now, "step": batch.step}]

    def _stands(self, cause: str) -> bool:
        """Whether a metric that names this cause itself has alarmed already."""
        return any(
            self._changes[name]["alarmed"]
            for name, symptom in self.symptoms.items()
            if symptom.cause == cause
        )

    def _series(self, name: str, steps: Iterable[dict[str, float]]) -> Floats:
        return np.array([past.get(name, np.nan) for past in steps])

    def _raise(self, name: str, symptom: Symptom, severity: Severity, step: int, since: int) -> None:
        assert self.seen is not None
        self._alarms.append(self._alarm(name, symptom, severity, step, since, self.seen, self.values))

    def _alarm(
        self,
        name: str,
        symptom: Symptom,
        severity: Severity,
        step: int,
        since: int,
        seen: Seen,
        values: Mapping[str, float],
    ) -> Alarm:
        metric = symptom.metric or name
        reference = self._reference.get(name)
        return Alarm(
            metric=name,
            severity=severity,
            step=step,
            onset_step=since,
            value=values[metric],
            calibration=reference["mean"] if reference else None,
            cause=symptom.cause,
            why=symptom.why,
            fix=symptom.fix,
            examples=_examples(seen, metric, symptom.limit.sign),
        )

    def _explain(self, name: str, symptom: Symptom, seen: Seen) -> Symptom:
        """The symptom with the cause that this batch points to."""
        loops = seen.periods > 0
        loop = self.symptoms["loop"]
        if name in ("loop", "near_loop", "seq_rep_4", "tail_zlib", "truncated") and loops.any():
            # The Qwen vocabulary's id 0 is "!": what argmax gives when every logit is NaN (vllm#14126).
            broken = (seen.values["not_finite"] > 0) | ((seen.periods == 1) & (seen.tokens == 0))
            if (loops & broken).sum() * 2 >= loops.sum():
                return replace(symptom, cause=NUMERICS.cause, why=NUMERICS.why, fix=NUMERICS.fix)
            if name in ("seq_rep_4", "tail_zlib") and loops.mean() >= loop.limit.floor:
                return replace(symptom, cause=loop.cause, why=loop.why, fix=loop.fix)
        if name == "truncated":
            cut = seen.values["truncated"] > 0
            if (cut & loops).sum() * 2 >= cut.sum():
                return replace(symptom, cause=loop.cause, why=loop.why, fix=loop.fix)
            if self._usual_length is not None:
                usual = f"95 % of the calibration's answers have {self._usual_length:.0f} tokens or less"
                return replace(symptom, fix=f"{symptom.fix}; {usual}")
        if name == "flat_reward" and self.values.get("truncated", 0.0) >= 0.5:
            cut_off = self.symptoms["truncated"]
            return replace(
                symptom,
                cause=cut_off.cause,
                why=f"{cut_off.why}, so all of them score alike",
                fix=cut_off.fix,
            )
        if name == "miscounted" and seen.ended_on:
            shares = ", ".join(
                f"{count / len(seen.periods):.0%} ended on {token}"
                for token, count in sorted(seen.ended_on.items(), key=lambda item: -item[1])
            )
            return replace(symptom, why=f"{symptom.why}: {shares}")
        return symptom

    def _watch_gap(self, step: int) -> None:
        """The gap of log-probabilities may rise step by step, and fall back when the engine starts anew."""
        resets = [i for i, past in enumerate(self._history) if "reset" in past]
        recent = self._history[resets[-1] if resets else 0 :]
        change, t = trend(self._series("gap", recent))
        rises = len(recent) >= TREND // 2 and change >= self.symptoms["gap"].limit.floor and t >= SURE
        if len(recent) == 1:
            self._trends.pop("gap", None)
        if not rises and "gap" not in self._trends:
            return
        self._alarms = [alarm for alarm in self._alarms if alarm.metric != "gap"]
        if "gap" not in self._trends:
            since = self._changes["gap"]["since"]
            again = ", and it fell back when the engine started anew" if self._reset_seen else ""
            self._raise(
                "gap",
                replace(GAP_TREND, why=GAP_TREND.why + again),
                "fail" if self._reset_seen else "warn",
                step,
                int(recent[0]["step"]) if since is None else since,
            )
            self._trends["gap"] = step

    def _watch_reward(self, step: int) -> None:
        """The reward may rise while the text becomes worse (Visual-Agent/DeepEyes#24)."""
        recent = self._history[-TREND:]
        if len(recent) < TREND:
            return
        assert self.seen is not None
        for name in self._worse_as_paid(recent):
            said = self._trends.get(name)
            if said is None or step - said > TREND:
                self._alarms.append(self._score_up(name, "fail", self.seen, self.values, recent))
            self._trends[name] = step

    def _worse_as_paid(self, recent: list[dict[str, float]]) -> Iterator[str]:
        """Metrics of the text that become worse while the reward rises."""
        if trend(self._series("reward", recent))[1] >= SURE:
            for name, symptom in self.symptoms.items():
                change, t = trend(symptom.limit.sign * self._series(symptom.metric or name, recent))
                if symptom.text and t >= SURE and change >= max(symptom.limit.floor, 0.01):
                    yield name

    def _score_up(
        self,
        name: str,
        severity: Severity,
        seen: Seen,
        values: Mapping[str, float],
        recent: list[dict[str, float]],
    ) -> Alarm:
        told = replace(SCORE_UP_TEXT_DOWN, limit=self.symptoms[name].limit, metric=self.symptoms[name].metric)
        onset, step = int(recent[0]["step"]), int(recent[-1]["step"])
        return self._alarm(name, told, severity, step, onset, seen, values)


def _units(batch: Batch, seen: Seen, name: str) -> Floats:
    """The finite values of a metric, one for each independent unit: answers to one prompt are one."""
    values = seen.values[name]
    if batch.groups is not None and name not in NOT_BY_ROW:
        codes: dict[Any, int] = {}
        group = np.array([codes.setdefault(key, len(codes)) for key in batch.groups], dtype=np.int64)
        known = np.isfinite(values)
        counts = np.bincount(group[known], minlength=len(codes))
        sums = np.bincount(group[known], values[known], minlength=len(codes))
        values = sums[counts > 0] / counts[counts > 0]
    return values[np.isfinite(values)]


def _examples(seen: Seen, metric: str, sign: int) -> tuple[Example, ...]:
    if metric in NOT_BY_ROW:
        return ()
    values = sign * seen.values[metric]
    rows = [row for row in np.argsort(-values, kind="stable").tolist() if np.isfinite(values[row])]
    onsets = seen.onsets.get(metric)
    if onsets is not None:
        rows = [row for row in rows if values[row] > 0]
    return tuple(Example(row, int(onsets[row]) if onsets is not None else -1) for row in rows[:3])
