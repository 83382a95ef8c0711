"""The loop of policy optimisation; it knows no algorithm.

    for each step:
        draw G answers to each of the step's prompts, judge them, compute advantages over all of them
        updates times: gradients pass by pass, divided once by the step's weight, clipped; AdamW
        the KL controller and the monitor see the step; log, go back at a grave alarm, evaluate, checkpoint

The draws of a step follow from the seed and the step alone, and everything else that changes is in a
checkpoint, so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdtrue.errors import Interrupted, QualityError
from holdtrue.health.advice import Alarm
from holdtrue.health.batch import Batch
from holdtrue.health.monitor import ENOUGH, Monitor
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy import checkpoints, journal, kl, prospects, rollback
from holdtrue.policy.algorithms import Algorithm
from holdtrue.policy.checkpoints import State
from holdtrue.policy.critic import Critic, explained_variance
from holdtrue.policy.curriculum import HELD_OUT, OPPONENTS, TRAINING, Curriculum, spreads
from holdtrue.policy.inputs import Scored
from holdtrue.policy.journal import Row
from holdtrue.policy.prompts import Prompts
from holdtrue.policy.reference import Reference
from holdtrue.policy.rewards import Judged, RewardStack
from holdtrue.policy.sampler import Sampler
from holdtrue.policy.samples import PaddedSamples, Samples
from holdtrue.policy.settings import RLSettings
from holdtrue.policy.trees import share_prompts
from holdtrue.policy.update import Drawing, adamw, add_gradients, of_all
from holdtrue.records import Rollout
from holdtrue.rundir import RunDir, append_jsonl
from holdtrue.training import loop, schedules
from holdtrue.training.distributed import ALONE, World
from holdtrue.training.step import Sums

_NAMES = {"kl": "kl_token"}
"""Metrics of algorithms under another name, ``kl`` being that of a whole answer."""
_log = logging.getLogger(__name__)


@dataclass
class Optimisation:
    """A run's fixed parts.

    Attributes:
        policy: a causal LM, or a peft model around one.
        reference: another causal LM to measure drift from; None is the policy as it is now.
        critic: for algorithms that need values.
        vocabulary: its ends, control ids and digits.
        world: the processes that share each step; the main one writes and tells.
        tell: gets every row of ``metrics.jsonl``, and alarms as ``{"event": "alarm"}``.
        stop: asked once a step; true means save and stop.
    """

    policy: Any
    tokenizer: Any
    vocabulary: Vocabulary
    sampler: Sampler
    rewards: RewardStack
    prompts: Prompts
    held_out: Prompts
    settings: RLSettings
    run: RunDir
    learning_rate: float
    reference: Any = None
    critic: Critic | None = None
    world: World = ALONE
    tell: Callable[[Row], None] = lambda row: None
    stop: Callable[[], bool] = lambda: False


class PolicyTrainer:
    """Carries an :class:`Optimisation` from where it stands to its end."""

    def __init__(self, job: Optimisation) -> None:
        self.job = job
        settings, training = job.settings, job.settings.training
        self.policy = job.policy
        self.policy.eval()  # without dropout: what is trained is the policy that sampled
        share_prompts(self.policy)
        self.algorithm: Algorithm = settings.algorithm
        self.drawing = Drawing.of(self.policy, job.vocabulary, settings.decoding)
        self.reference: Reference | None = None
        if job.reference is not None or "reference_logprobs" in self.algorithm.needs:
            self.reference = Reference(self.policy, job.reference, job.vocabulary, settings.decoding)
        own, critics = _trained(self.policy), _trained(job.critic)
        self._of_policy, self._of_critic = list(own.values()), list(critics.values())
        self.parameters = own | {f"critic.{name}": p for name, p in critics.items()}
        faster = settings.critic.rate(job.learning_rate) / job.learning_rate
        self.optimizer: torch.optim.Optimizer = adamw(
            [(self._of_policy, 1.0), (self._of_critic, faster)], training
        )
        self.rewards = job.rewards
        self.controller = self.algorithm.controller()
        self.monitor = Monitor(job.vocabulary)
        self.curriculum = Curriculum(len(job.prompts), settings.seed, training.curriculum)
        self.state = State()
        self.opponents: list[str] = []

    # The run

    def train(self) -> State:
        """Train from the newest checkpoint (or the beginning) to the end; the policy then has the best
        weights, where that was asked for.

        Raises:
            Interrupted: ``job.stop`` asked for it; a checkpoint was saved.
            QualityError: too many steps were not finite, or no answer has a reward.
        """
        job, training = self.job, self.job.settings.training
        every = max(1, round(training.max_steps / 10))
        best = training.load_best_model_at_end
        if not checkpoints.resume(job.run, self, self._files, job.world, best=best):
            torch.manual_seed(job.settings.seed)
            self._calibrate()
            if job.settings.guard.on_alarm == "rollback":
                self.save(haven=True)
        while not self.over:
            went_back = self.step()
            due = self.state.step % (training.eval_steps or every) == 0
            if len(job.held_out) and not went_back and (due or self.over):
                self.evaluate()
            stopping = job.world.total([float(job.stop())])[0] > 0
            regular = went_back or self.state.step % (training.save_steps or every) == 0
            improved = best and self.state.best_step == self.state.step
            if regular or improved or stopping or self.over:
                self.save(haven=regular)
            if stopping and not self.over:
                raise Interrupted(
                    f"stopped after step {self.state.step} of {self.steps}, everything is saved; "
                    f"continue with: holdtrue resume {job.run.path}"
                )
        if best and self.state.best_step not in (None, self.state.step):
            loop.load_best(job.run, self.state, self.parameters, "policy")
        return self.state

    @property
    def over(self) -> bool:
        """Whether the run is at its end."""
        state = self.state
        done = state.learnt == self.job.settings.training.max_steps
        return done or state.stopped is not None or state.stopped_early

    @property
    def steps(self) -> int:
        """Steps of the run, those that were taken back with them."""
        return self.job.settings.training.max_steps + self.state.step - self.state.learnt

    def step(self) -> bool:
        """Draw, judge, learn, watch, log; whether the policy went back because of an alarm."""
        started = time.perf_counter()
        job, state, settings = self.job, self.state, self.job.settings
        places = self.curriculum.places(state.step, settings.training.prompts_per_step)
        prompts = job.prompts.take(places)
        samples = self._sample(prompts, settings.training.group, state.step + 1)
        sampled = time.perf_counter() - started
        rollouts = samples.rollouts(prompts.texts, job.tokenizer, step=state.step + 1, policy="current")
        judged = self.job.rewards.score(rollouts, samples)
        padded = samples.padded(0, self.policy.device)
        scored = self._scored(samples, padded, judged)
        row: Row = {"event": "train", "step": state.step + 1, "steps": self.steps}
        row |= journal.summary(samples, judged)
        if settings.training.group > 1:
            spread_P = spreads(scored)
            self.curriculum.learn(places, spread_P)
            row["flat_groups"] = float((spread_P == 0).mean())
        if scored.reference_logprobs is not None:
            each = kl.of_answers(padded.logprobs_NT, scored.reference_logprobs, scored.mask)
            row["kl"] = float(each[scored.keep].mean()) if scored.keep.any() else None
            row["kl_coef"] = self.controller.coef
        returns = self.algorithm.returns(scored)
        if returns is not None:
            assert scored.old_values is not None
            row["explained_variance"] = explained_variance(scored.old_values, returns, scored.counted)
        advantages = self.algorithm.advantages(scored)
        trained, learnt = self._learn(scored, advantages, returns, padded)
        row |= learnt
        if row.get("kl") is not None and isfinite(row["kl"]):
            self.controller.update(row["kl"], int(scored.keep.sum()))
        rollouts = journal.completed(rollouts, judged, advantages, padded, trained)
        state.step += 1
        state.learnt += 1
        state.tokens += int(samples.lengths.sum())
        state.nan += judged.nan
        state.guarded += judged.guarded
        self._append("rollouts.jsonl", map(journal.as_row, rollouts))
        grave = self._watch(Batch.of(rollouts, state.step))
        seconds = time.perf_counter() - started
        state.seconds += seconds
        row |= {
            "skipped": state.skipped,
            "unusable": state.unusable,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
            "seconds_step": round(seconds, 4),
            "seconds_sampling": round(sampled, 4),
        }
        self._write(row)
        back = grave and rollback.respond(job.run, self, grave, settings.guard)
        if back:
            job.world.wait()  # every process has read the checkpoint, which the next one may replace
            self._write(back)
        return bool(back)

    def evaluate(self) -> None:
        """One answer to each held-out prompt: reward, length, how they ended; whether it is the best so far.

        The best has the highest ``score``: the mean of what is learnt from (whitened, shaped), where answers
        that the guard leaves out and those without a reward count as ``guard.penalty``. A policy that an
        alarm ended the run for is not the best. Models that compare answers compare with the reference's
        answer to the prompt, drawn once.
        """
        job = self.job
        samples = self._sample(job.held_out, 1, self.state.step, HELD_OUT)
        rollouts = samples.rollouts(job.held_out.texts, job.tokenizer)
        against = [Rollout(*one) for one in zip(job.held_out.texts, self.opponents, strict=False)]
        row: Row = {"event": "eval", "step": self.state.step, "reward": None, "score": float("nan")}
        try:
            judged = job.rewards.score(rollouts, samples, against or None)
        except QualityError as error:  # training may go on all the same
            _log.warning(f"step {self.state.step}, held-out prompts: {error}")
        else:
            row |= journal.summary(samples, judged)
            row["reward_se"] = row["reward_std"] / max(1, len(samples) - judged.nan) ** 0.5
            row["score"] = float(judged.rewards.where(judged.keep, job.settings.guard.penalty).mean())
            paid = [
                replace(one, reward=reward) for one, reward in zip(rollouts, judged.raw.tolist(), strict=True)
            ]
            self._tell(self.monitor.update_held_out(Batch.of(paid, self.state.step)))
        self._write(row)
        if self.state.stopped is None:
            loop.compare(self.state, -row["score"], job.settings.training.early_stopping_patience)
            if self.state.best_step == self.state.step:
                self.state.bests.append(self.state.step)

    # Parts of a step

    def _calibrate(self) -> None:
        """Scales of the rewards and what is usual, from answers of the reference."""
        job, training = self.job, self.job.settings.training
        for file in self._files if job.world.main else ():
            file.unlink(missing_ok=True)
        count = -(-job.settings.guard.calibration // training.group)
        prompts = job.prompts.take([i % len(job.prompts) for i in range(count)])
        samples = self._sample(prompts, training.group, 0, policy=job.reference)
        rollouts = samples.rollouts(prompts.texts, job.tokenizer, step=0, policy="reference")
        if blind := prospects.blind_guard(job.settings.decoding):
            _log.warning(blind)
        if alarm := prospects.endless(samples, job.settings.guard, job.settings.decoding):
            self._tell([alarm])
        raw = job.rewards.fit(rollouts, training.group).tolist()
        if job.critic is not None:
            job.critic.take_scale(job.rewards)
        rollouts = [replace(one, reward=reward) for one, reward in zip(rollouts, raw, strict=True)]
        self._append("rollouts.jsonl", map(journal.as_row, rollouts))
        if job.rewards.compares and len(job.held_out):
            samples = self._sample(job.held_out, 1, 0, OPPONENTS, policy=job.reference)
            self.opponents = [one.text for one in samples.rollouts(job.held_out.texts, job.tokenizer)]
        elif job.rewards.compares:
            _log.warning(
                "win rates within a group are 1/2 on average, however good the policy is; set "
                "data.eval_fraction to see how often it beats the reference on held-out prompts"
            )
        if len(rollouts) >= ENOUGH:
            self.monitor.calibrate(Batch.of(rollouts, 0))
        else:
            _log.warning(
                f"the monitor is not calibrated: guard.calibration gives {len(rollouts)} answers, {ENOUGH} "
                "are needed; only limits and trends alarm"
            )

    def _sample(
        self, prompts: Prompts, group: int, step: int, stream: int = TRAINING, policy: Any = None
    ) -> Samples:
        """Answers of the policy that is trained, or of another."""
        seed = np.random.SeedSequence([self.job.settings.seed, stream, step]).generate_state(1)[0]
        policy = self.policy if policy is None else policy
        return self.job.sampler.sample(policy, prompts.ids, group, int(seed))

    def _scored(self, samples: Samples, padded: PaddedSamples, judged: Judged) -> Scored:
        device, rows = padded.ids_NT.device, self.job.settings.training.rows_per_pass
        world, critic, reference = self.job.world, self.job.critic, self.reference
        return Scored(
            rewards=judged.rewards.to(device),
            mask=padded.completion_NT,
            keep=judged.keep.to(device),
            group=samples.group,
            kl_coef=self.controller.coef,
            old_logprobs=padded.logprobs_NT,
            reference_logprobs=None if reference is None else reference.logprobs(padded, rows, world),
            old_values=None if critic is None else of_all(critic, padded, rows, world),
        )

    def _learn(
        self, scored: Scored, advantages: Tensor, returns: Tensor | None, padded: PaddedSamples
    ) -> tuple[Tensor | None, Row]:
        """Make the step's updates: log-probabilities (N, T) before the first, and what to log of all."""
        training, state = self.job.settings.training, self.state
        if not scored.keep.any():
            state.unusable += 1
            _log.warning(f"step {state.step + 1}: no answer could be learnt from; the step was skipped")
            state.updates += training.updates
            return None, {"learning_rate": None, "grad_norm": None}
        before: Tensor | None = None
        rows: list[Row] = []
        for _ in range(training.updates):
            total = training.max_steps * training.updates
            rate = self.job.learning_rate * schedules.factor(state.updates, total, training)
            rate *= rollback.FACTOR ** len(state.rollbacks)
            learnt = add_gradients(
                self.policy,
                self.algorithm,
                scored,
                advantages,
                padded,
                self.drawing,
                training.rows_per_pass,
                critic=self.job.critic,
                returns=returns,
                world=self.job.world,
            )
            self.job.world.sum_gradients([*self._of_policy, *self._of_critic])
            sums = Sums(loss=float(learnt.loss.total), weight=float(learnt.loss.weight))
            norm = loop.update(
                self._of_policy, self.optimizer, sums, rate, training.max_grad_norm, beside=self._of_critic
            )
            state.updates += 1
            before = learnt.logprobs if before is None else before
            row: Row = {"loss": float(learnt.loss.value), "grad_norm": norm, "learning_rate": rate}
            for name, mean in learnt.metrics.items():
                row[_NAMES.get(name, name)] = float(mean.value)
            rows.append(row)
            if norm is None:
                self._skip()
        return before, {name: journal.mean([row[name] for row in rows]) for name in rows[0]}

    def _skip(self) -> None:
        self.state.skipped += 1
        _log.warning(f"step {self.state.step + 1}: loss or gradient is not finite; the update was skipped")
        if self.state.skipped >= self.job.settings.training.max_nonfinite_steps:
            raise QualityError(
                f"loss or gradient was not finite in {self.state.skipped} updates (last in step "
                f"{self.state.step + 1}); try a lower training.learning_rate or a higher algorithm.kl_coef"
            )

    def _watch(self, batch: Batch) -> Alarm | None:
        """Alarms of the step, told and written down; the gravest, if it is grave."""
        alarms = self.monitor.update(batch)
        self._tell(alarms)
        return next((alarm for alarm in alarms if alarm.severity == "fail"), None)

    def _tell(self, alarms: Iterable[Alarm]) -> None:
        for alarm in alarms:
            self.state.alarms += 1
            row = {"event": "alarm", "text": str(alarm), **asdict(alarm)}
            self._append("findings.jsonl", [journal.finite(row)])
            if self.job.world.main:
                self.job.tell(row)

    def _write(self, row: Row) -> None:
        row = journal.finite(row)
        self._append(self.job.run.metrics_file.name, [row])
        if self.job.world.main:
            self.job.tell(row)

    def _append(self, file: str, rows: Iterable[Row]) -> None:
        if self.job.world.main:
            append_jsonl(self.job.run.path / file, rows)

    # Checkpoints

    @property
    def _files(self) -> list[Path]:
        run = self.job.run
        return [run.metrics_file, run.path / "rollouts.jsonl", run.path / "findings.jsonl"]

    def save(self, *, haven: bool = False) -> None:
        """Publish a checkpoint of everything that changes; ``haven``: a rollback may go back to it."""
        settings, state = self.job.settings, self.state
        if haven and settings.guard.on_alarm == "rollback":
            state.havens = rollback.havens(state.havens, state.step, self.monitor.possible_onsets)
        state.bests = rollback.bests(state.bests, state.havens)
        protect = {*state.havens, *(state.bests if settings.training.load_best_model_at_end else ())}
        if self.job.world.main:
            keep = settings.training.save_total_limit
            checkpoints.save(self.job.run, self, keep=keep, protect=protect)
        self.job.world.wait()


def _trained(model: Any) -> dict[str, nn.Parameter]:
    """What is learned of a model, by name."""
    return {} if model is None else {name: p for name, p in model.named_parameters() if p.requires_grad}
