"""A policy optimisation, end to end: settings to a run directory with an optimised policy.

settings.yaml, run.json     as of every run
metrics.jsonl               a row for each step, each evaluation and each rollback
rollouts.jsonl              every answer with its reward, as ``holdtrue doctor rollouts`` reads it
findings.jsonl              alarms of the monitor
checkpoints/, model/        resumable states, and the policy as transformers loads it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from holdtrue.data.files import resources
from holdtrue.errors import DataError, SettingsError
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
from holdtrue.reward.folders import compares
from holdtrue.rundir import RunDir, disk_errors, find_model, now
from holdtrue.tokens.conversation import model_max_length
from holdtrue.training import attempt, distributed
from holdtrue.training.distributed import World


def start(settings: RLSettings, output: str | Path) -> RunDir:
    """A new run directory for these settings.

    Raises:
        SettingsError: prompts or a reward are missing, or the directory is in use.
        DataError, ModelError: a file that is named does not exist; then nothing is written.
    """
    if not settings.data.prompts:
        raise SettingsError("policy optimisation needs prompts: holdtrue rl SETTINGS.yaml prompts.jsonl")
    if not settings.rewards:
        raise SettingsError(
            "policy optimisation needs a reward: --reward PATH of a model, or file.py:function"
        )
    require_files(settings)
    return RunDir.create(output, anchored(settings))


def require_files(settings: RLSettings) -> None:
    """Refuse paths of prompts and rewards that do not exist or cannot be used, without loading anything.

    Raises:
        DataError, ModelError, SettingsError: says which.
    """
    resources(settings.data.prompts)
    for one in settings.rewards:
        if one.model is not None:
            if compares(find_model(one.model)) and settings.training.group < 2:
                raise SettingsError(
                    f"reward {one.model} compares the answers of a group: training.group is 2 or more with it"
                )
        elif not Path(str(one.function).rpartition(":")[0]).is_file():
            raise SettingsError(f"reward function {one.function}: there is no such file")
    if settings.critic.path is not None:
        find_model(settings.critic.path)


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
    prompts = read_prompts(settings.data, tokenizer, context, longest)
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
        tell({"event": "prepared", **run.info()})
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


def anchored(settings: RLSettings) -> dict[str, Any]:
    """The settings with whole paths, so that a run can be resumed from anywhere."""

    def anchor(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path and Path(path).exists() else path

    values = settings.dump()
    values["data"]["prompts"] = [anchor(path) for path in values["data"]["prompts"]]
    for key in ("path", "reference"):
        path = values["policy"][key]
        if path and RunDir(path).settings_file.is_file():
            values["policy"][key] = str(find_model(path))
    values["critic"]["path"] = anchor(values["critic"]["path"])
    for key in ("path", "reference", "chat_template_path"):
        values["policy"][key] = anchor(values["policy"][key])
    for one in values["rewards"]:
        one["model"] = anchor(one["model"])
        if one["function"] is not None:
            file, _, name = one["function"].rpartition(":")
            one["function"] = f"{Path(file).absolute()}:{name}"
    return values
