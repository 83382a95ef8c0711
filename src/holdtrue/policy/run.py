"""A policy optimisation, end to end: settings to a run directory with an optimised policy.

settings.yaml, run.json     as of every run
rejected.jsonl              rows that gave no prompt, dropped.jsonl those whose prompt is too long
metrics.jsonl               a row for each step, each evaluation and each rollback
rollouts.jsonl              every answer with its reward, as ``holdtrue doctor rollouts`` reads it
findings.jsonl              alarms of the monitor
checkpoints/, model/        resumable states, and the policy as transformers loads it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import transformers

from holdtrue.errors import DataError
from holdtrue.policy import critic as critics
from holdtrue.policy import rollback
from holdtrue.policy.causal import load_policy, load_reference, publish, vocabulary_of
from holdtrue.policy.checkpoints import State
from holdtrue.policy.journal import Row
from holdtrue.policy.prompts import Read, read_prompts
from holdtrue.policy.rewards import RewardStack, open_judge
from holdtrue.policy.sampler import SharedPrefixSampler
from holdtrue.policy.settings import RLSettings, build
from holdtrue.policy.shared import SharedSampler
from holdtrue.policy.trainer import Optimisation, PolicyTrainer
from holdtrue.rundir import RunDir, disk_errors, now, write_jsonl
from holdtrue.tokens.conversation import model_max_length
from holdtrue.training import attempt, distributed
from holdtrue.training.distributed import World


def optimise(
    run: RunDir,
    *,
    tell: Callable[[Row], None] = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
    trust_remote_code: bool = False,
) -> None:
    """Carry a run from where it stands to its end; ``ended`` in ``run.json`` says how that was.

    Everything that can be wrong with its input is found before anything is sampled, as far as that can be.

    Raises:
        Interrupted: ``stop`` asked for it and a checkpoint was saved.
        HoldtrueError: something is wrong with the settings, the policy, the prompts or a reward.
    """
    settings = build(run.settings())
    processes = settings.training.processes
    patience = 600 + sum(one.timeout for one in settings.rewards)
    with (
        distributed.join(processes if processes > 1 else None, "data", patience) as world,
        attempt.claimed(run, world),
        attempt.recorded(run),
    ):
        job = replace(_set_up(run, settings, world, tell, trust_remote_code), tell=tell, stop=stop)
        state = PolicyTrainer(job).train()
        if world.main:
            _save(job, state)
        world.wait()


def _set_up(
    run: RunDir, settings: RLSettings, world: World, tell: Callable[[Row], None], trust: bool
) -> Optimisation:
    """Everything that is loaded and read, written down and told before anything is sampled."""
    device = world.device
    judges = [open_judge(one, device, trust) for one in settings.rewards]
    policy, tokenizer = load_policy(settings.policy, settings.seed, device, trust)
    reference = load_reference(settings.policy, tokenizer, device, trust)
    vocabulary = vocabulary_of(policy, tokenizer, settings.policy.path)
    context, longest = model_max_length(policy.config, tokenizer), settings.decoding.max_new_tokens
    listing = world.main and "data" not in run.info()  # a run that goes on has its lists already
    if listing:
        run.rejected_file.unlink(missing_ok=True)
        run.dropped_file.unlink(missing_ok=True)
    rejected = run.rejected_file if listing else None
    prompts = read_prompts(settings.data, tokenizer, context, longest, rejected)
    if listing and prompts.dropped:
        with disk_errors(run.dropped_file):
            write_jsonl(run.dropped_file, prompts.dropped)
    _refuse_changed(run, prompts)
    critic = None
    if "values" in settings.algorithm.needs:
        most = max(map(len, prompts.train.ids)) + longest
        critic = critics.build(settings, policy, tokenizer, judges[0], most, trust_remote_code=trust)
    if settings.asks_for_the_best and not len(prompts.held_out):
        raise DataError(
            f"{settings.asks_for_the_best} needs held-out prompts, and data.eval_fraction "
            f"{settings.data.eval_fraction:g} gives none beside the {len(prompts.train)} trained on; "
            "give more prompts"
        )
    rate = settings.training.learning_rate or _learning_rate(policy)
    if world.main:
        run.update_info(
            torch=torch.__version__,
            transformers=transformers.__version__,
            data=prompts.summary(),
            processes=world.size,
            policy={
                "architecture": type(policy).__name__,
                "parameters": sum(p.numel() for p in policy.parameters()),
                "trainable": sum(p.numel() for p in policy.parameters() if p.requires_grad),
                "context": context,
                "ends": sorted(vocabulary.eos),
                "device": device,
                "learning_rate": rate,
            },
            critic=critic and critic.facts() | {"learning_rate": settings.critic.rate(rate)},
        )
        tell({"event": "prepared", "left_out_files": run.left_out_files, **run.info()})
    return Optimisation(
        policy=policy,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        sampler=SharedSampler(SharedPrefixSampler(vocabulary, settings.decoding), world),
        rewards=RewardStack(judges, settings.rewards, settings.guard, settings.shaping, longest, world),
        prompts=prompts.train,
        held_out=prompts.held_out,
        settings=settings,
        run=run,
        learning_rate=rate,
        reference=reference,
        critic=critic,
        world=world,
    )


def _save(job: Optimisation, state: State) -> None:
    """Publish the policy, and write down how the run ended."""
    lora = job.settings.policy.lora
    with disk_errors(job.run.model):
        publish(job.policy, job.tokenizer, job.run.model, merge=lora is not None and lora.merge)
    ended = {
        "steps": state.step,
        "stopped": state.stopped,
        "stopped_early": state.stopped_early,
        "best_step": state.best_step,
        "kept": _kept(state, job.settings.training.load_best_model_at_end),
        "rollbacks": state.rollbacks,
        "skipped": state.skipped,
        "unusable": state.unusable,
        "nan_rewards": state.nan,
        "guarded": state.guarded,
        "alarms": state.alarms,
        "seconds": round(state.seconds, 1),
    }
    job.run.update_info(status="finished", finished=now(), ended=ended)


def _kept(state: State, best: bool) -> dict[str, Any]:
    """Which step's policy was saved, and why."""
    step = rollback.kept(state)
    last = "the last step"
    if state.stopped is not None:
        last += ", at which the alarm ended the run"
    if step != state.step:
        last = "from before the change that ended the run"
    if not best:
        return {"step": step, "why": last}
    if state.best_step is None or state.best_value is None:
        return {"step": step, "why": f"{last}, no best one being at hand"}
    return {"step": state.best_step, "why": f"best held-out score, {-state.best_value:.4g}"}


def _learning_rate(policy: Any) -> float:
    rate = 0.004 / policy.config.get_text_config().hidden_size
    return float(rate * (10 if hasattr(policy, "peft_config") else 1))


def _refuse_changed(run: RunDir, prompts: Read) -> None:
    before = (run.info().get("data") or {}).get("files", prompts.files)
    for path in before.keys() | prompts.files.keys():
        if before.get(path) != prompts.files.get(path):
            raise DataError(f"{path} changed since this run began; start a new run to train on it")
