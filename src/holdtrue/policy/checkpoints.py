"""What changes during a policy optimisation, into a checkpoint and back."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from holdtrue.errors import DataError
from holdtrue.health.monitor import Monitor
from holdtrue.policy.curriculum import Curriculum
from holdtrue.policy.kl import Controller
from holdtrue.policy.rewards import RewardStack
from holdtrue.rundir import RunDir
from holdtrue.training import checkpoint, sinks
from holdtrue.training.distributed import World

_log = logging.getLogger(__name__)


@dataclass
class State:
    """What changes during a run beside weights, optimiser, scales, β, the monitor and the curriculum.

    Attributes:
        step: steps made; no two rows of a run's files are of the same one.
        learnt: steps that the policy has behind it: fewer, once it went back.
        updates: likewise, of the optimiser; the place in the schedule of the learning rate.
        skipped: updates that were not made because something was not finite.
        unusable: steps of which no answer could be learnt from.
        nan: answers without a finite reward.
        guarded: answers the guard's verdict left out or penalised.
        stopped: the alarm that ended the run, if one did.
        best_step, best_value: the evaluation with the highest score, and that score with its sign changed.
        bests: steps that were the best, as far as a rollback may need them; the last is ``best_step``.
        stale: evaluations since.
        rollbacks: rows of the rollbacks.
        havens: steps whose checkpoints a rollback may need.
    """

    step: int = 0
    learnt: int = 0
    updates: int = 0
    tokens: int = 0
    skipped: int = 0
    unusable: int = 0
    nan: int = 0
    guarded: int = 0
    alarms: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    best_step: int | None = None
    best_value: float | None = None
    stale: int = 0
    stopped_early: bool = False
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    havens: list[int] = field(default_factory=list)
    bests: list[int] = field(default_factory=list)


class Changing(Protocol):
    """The part of a trainer that changes while it runs.

    Attributes:
        parameters: all that the optimiser trains, by name.
        opponents: the reference's answers to the held-out prompts, where rewards compare answers.
    """

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    rewards: RewardStack
    controller: Controller
    monitor: Monitor
    curriculum: Curriculum
    opponents: list[str]
    state: State


def save(run: RunDir, changing: Changing, *, keep: int, protect: Container[int]) -> None:
    """Publish a checkpoint; ``keep`` and ``protect`` as in :func:`~holdtrue.training.checkpoint.prune`.

    Raises:
        ResourceError, DataError: it cannot be written; those from before are untouched.
    """
    moments = {
        f"{name}/{key}": value
        for name, p in changing.parameters.items()
        for key, value in changing.optimizer.state.get(p, {}).items()
    }
    tensors = {
        "policy": changing.parameters,
        "optimizer": moments,
        "random": {"cpu": torch.get_rng_state()},
        "curriculum": changing.curriculum.tensors(),
    }
    values = {
        "state": asdict(changing.state),
        "rewards": changing.rewards.state_dict(),
        "kl": changing.controller.state_dict(),
        "monitor": changing.monitor.state_dict(),
        "opponents": changing.opponents,
    }
    checkpoint.save(run, changing.state.step, tensors, values, keep=keep, protect=protect)


@torch.no_grad()
def load(folder: Path, changing: Changing) -> None:
    """Put everything back as a checkpoint has it.

    Raises:
        DataError: it cannot be read, or is of another policy.
    """
    tensors, values = checkpoint.read(folder)
    if tensors["policy"].keys() != changing.parameters.keys():
        raise DataError(f"checkpoint {folder} is of another policy than that of these settings")
    for name, parameter in changing.parameters.items():
        parameter.copy_(tensors["policy"][name])
    changing.optimizer.state.clear()
    for key, value in tensors["optimizer"].items():
        name, _, part = key.rpartition("/")
        parameter = changing.parameters[name]
        changing.optimizer.state[parameter][part] = value.to(parameter.device)
    torch.set_rng_state(tensors["random"]["cpu"])
    changing.curriculum.load_tensors(tensors["curriculum"])
    changing.state = State(**values["state"])
    changing.rewards.load_state_dict(values["rewards"])
    changing.controller.load_state_dict(values["kl"])
    changing.monitor.load_state_dict(values["monitor"])
    changing.opponents = values["opponents"]


def resume(run: RunDir, changing: Changing, files: Iterable[Path], world: World, *, best: bool) -> bool:
    """Go on from the newest whole checkpoint; false where there is none.

    Args:
        files: what the run writes row by row; rows of later steps are taken out, to be written anew.
        best: the best step's checkpoint is kept; one that is gone is no best step any more.
    """
    found = checkpoint.newest(run)
    if found is None:
        if any(run.checkpoints.glob("step-*")) and world.main:
            _log.warning(f"no checkpoint in {run.checkpoints} is whole, so the run begins anew")
        return False
    load(found[1], changing)
    state = changing.state
    if best and state.best_step is not None and checkpoint.newest(run, at=state.best_step) is None:
        state.best_step = state.best_value = None  # lost with those walked past: found anew
    world.wait()  # every process has read it
    if world.main:
        for file in files:
            sinks.rewind(run, state.step, file)
        checkpoint.sweep(run)
    return True
