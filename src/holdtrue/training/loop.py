"""The training loop: one function, from the first step to the last, for every way to train a model.

    for each step of the order:
        gradients of Σ weight·term over this process's trees      (the gradient step, an argument)
        sum over processes, divide by Σ weight once, clip
        AdamW with the rate of the schedule; a non-finite step is skipped, counted and kept for inspection
        log, validate, checkpoint

Everything that changes while it runs lives in :class:`State`; a checkpoint is that state, so a run that
was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import isfinite
from typing import Any, Protocol

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from holdtrue.errors import Interrupted, QualityError
from holdtrue.losses import Loss
from holdtrue.reward.model import Batch, RewardModel
from holdtrue.rundir import RunDir, append_jsonl, write_json
from holdtrue.settings import TrainingSettings
from holdtrue.tokens.batches import share
from holdtrue.tokens.tree import Tree
from holdtrue.training import checkpoint, coupled, order, schedules
from holdtrue.training.distributed import World, full_tensor, load_whole
from holdtrue.training.step import GradientStep, Sums

Row = dict[str, Any]
_log = logging.getLogger(__name__)
_HEAD = re.compile(r"^classifier\.(base_model\.model\.)?(score|classifier|classification_head)\.")


@dataclass
class State:
    """What changes during a run besides weights, optimiser and random numbers."""

    step: int = 0
    tokens: int = 0
    comparisons: int = 0
    skipped: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_value: float | None = None
    stale: int = 0
    stopped_early: bool = False


class Compared(Protocol):
    """The part of a run's state that says which evaluation was the best."""

    step: int
    best_step: int | None
    best_value: float | None
    stale: int
    stopped_early: bool


@dataclass
class Training:
    """A run's fixed parts.

    Attributes:
        gradient_step: by default what the loss needs, pass by pass or over the whole step.
        evaluate: the same without gradients, on validation trees; goes with ``gradient_step``.
        tell: gets every row of ``metrics.jsonl`` as it is written (main process only).
        stop: asked once a step; true means save and stop.
    """

    model: RewardModel
    loss: Loss
    trees: Sequence[Tree]
    eval_trees: Sequence[Tree]
    settings: TrainingSettings
    run: RunDir
    seed: int
    learning_rate: float
    world: World = field(default_factory=World)
    gradient_step: GradientStep | None = None
    evaluate: GradientStep | None = None
    tell: Callable[[Row], None] = lambda row: None
    stop: Callable[[], bool] = lambda: False


def train(job: Training) -> State:
    """Train from the newest checkpoint (or the beginning) to the end; the model then holds the best weights.

    Returns:
        The final state.

    Raises:
        Interrupted: ``job.stop`` asked for it; a checkpoint was saved.
        QualityError: too many steps with a non-finite loss or gradient.
    """
    settings, world, model = job.settings, job.world, job.model
    torch.manual_seed(job.seed)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = adamw(parameters, settings, fused=not world.sharded)
    plan = order.steps([tree.count(job.loss.unit) for tree in job.trees], settings, world.size, job.seed)
    every = max(1, round(len(plan) / 10))
    eval_every, save_every = settings.eval_steps or every, settings.save_steps or every
    gradient_step = job.gradient_step or coupled.gradient_step(job.loss, world)
    state = resume(job, parameters, optimizer)
    training_mode(model, settings)
    while state.step < len(plan) and not state.stopped_early:
        started = time.perf_counter()
        step = plan[state.step]
        trees = [job.trees[i] for i in step.trees]
        sums = gradient_step(model, job.loss, batches(model, trees, settings, world))
        *totals, stopping = world.total([*sums.values(), float(job.stop())])
        sums = type(sums)(*totals)
        world.sum_gradients(list(parameters.values()))
        rate = job.learning_rate * schedules.factor(state.step, len(plan), settings)
        norm = update(list(parameters.values()), optimizer, sums, rate, settings.max_grad_norm)
        if norm is None:
            skip(job, state, trees)
        state.step += 1
        state.tokens += sum(tree.tokens for tree in trees)
        state.comparisons += int(sums.comparisons)
        seconds = time.perf_counter() - started
        state.seconds += seconds
        row = sums.metrics() | {
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": state.tokens,
            sums.counted: state.comparisons,
            "skipped": state.skipped,
            "seconds": round(state.seconds, 3),
            "tokens_per_second": round(sum(tree.tokens for tree in trees) / seconds, 1),
        }
        last = state.step == len(plan)
        if state.step % settings.logging_steps == 0 or last:
            log(job, {"event": "train", "step": state.step, "steps": len(plan), "epoch": step.epoch} | row)
        if job.eval_trees and (state.step % eval_every == 0 or last):
            validate(job, state, step.epoch)
        improved = state.best_step == state.step
        if state.step % save_every == 0 or last or improved or stopping or state.stopped_early:
            save(job, state, parameters, optimizer)
        if stopping and not last:
            raise Interrupted(
                f"stopped after step {state.step} of {len(plan)}, everything is saved; "
                f"continue with: holdtrue resume {job.run.path}"
            )
    if settings.load_best_model_at_end and state.best_step not in (None, state.step):
        load_best(job.run, state, parameters)
    model.eval()
    return state


def training_mode(model: RewardModel, settings: TrainingSettings) -> None:
    """Training mode; with ``disable_dropout`` only of what is not the model's dropout.

    That is the dropout of adapters, which has a setting of its own, and the layers' own flag (not that of
    the modules in them), without which transformers does not recompute activations.
    """
    model.train(not settings.disable_dropout)
    for name, module in model.named_modules():
        if ".lora_dropout" in name or isinstance(module, GradientCheckpointingLayer):
            module.training = True


def adamw(
    parameters: dict[str, nn.Parameter], settings: TrainingSettings, *, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW; matrices of the backbone decay, biases, norms and the head do not. Each step sets the rate."""
    decayed = [p for name, p in parameters.items() if p.ndim > 1 and not _HEAD.search(name)]
    others = [p for name, p in parameters.items() if p.ndim <= 1 or _HEAD.search(name)]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(settings.adam_beta1, settings.adam_beta2),
        fused=fused,
    )


def batches(
    model: RewardModel, trees: Sequence[Tree], settings: TrainingSettings, world: World | None = None
) -> Iterator[Batch]:
    """This process's share of the trees as batches of bounded size.

    Processes get equally many batches (sharded models need that); one that has run out of work computes
    a tree at weight 0.
    """
    world = world or World()
    dealt = share([model.size(tree) for tree in trees], world.size)
    budget = settings.tokens_per_pass(model.device.type, model.layout)
    packed = [model.pack([trees[i] for i in part], budget) for part in dealt]
    own, mine = dealt[world.rank], packed[world.rank]
    for batch in mine:
        yield model.batch([trees[own[i]] for i in batch])
    for _ in range(max(map(len, packed)) - len(mine)):
        idle = model.batch([min(trees, key=model.size)])
        idle.targets.silence()
        yield idle


def update(
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    sums: Sums,
    rate: float,
    max_norm: float,
    beside: Sequence[nn.Parameter] = (),
) -> float | None:
    """Divide the summed gradients by the step's weight, clip, and step.

    Args:
        rate: of groups of the optimiser without a ``factor``, which multiplies it.
        beside: parameters of another model in the same optimiser, clipped by themselves.

    Returns the norm of the gradient before clipping, or ``None`` where one or the loss is not finite: then
    nothing was changed.
    """
    norm, other = (_clip(part, sums.weight, max_norm) for part in (parameters, beside))
    finite = all(map(isfinite, (norm, other, sums.loss)))
    if finite:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm if finite else None


def _clip(parameters: Sequence[nn.Parameter], weight: float, max_norm: float) -> float:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    torch._foreach_div_(gradients, max(weight, 1e-12))
    norm = float(full_tensor(torch.nn.utils.get_total_norm(gradients)))
    if max_norm and norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))
    return norm


def skip(job: Training, state: State, trees: Sequence[Tree]) -> None:
    """Count a non-finite step, keep its token ids for inspection, stop when there were too many."""
    state.skipped += 1
    if job.world.main:
        folder = job.run.path / "nonfinite"
        folder.mkdir(exist_ok=True)
        kept = [
            {"prompt": tree.prompt.tolist(), "answers": [a.tolist() for a in tree.answers]} for tree in trees
        ]
        write_json(folder / f"step-{state.step + 1:08d}.json", kept)
    if state.skipped >= job.settings.max_nonfinite_steps:
        raise QualityError(
            f"loss or gradient was not finite in {state.skipped} steps (last: {state.step + 1}); "
            f"their batches are in {job.run.path / 'nonfinite'}; try a lower training.learning_rate"
        )


@torch.no_grad()
def validate(job: Training, state: State, epoch: float) -> None:
    """Loss and accuracy on the validation trees; decides which step is best and when to stop early."""
    started = time.perf_counter()
    job.model.eval()
    evaluate = job.evaluate or partial(coupled.evaluate, world=job.world)
    portions = [batches(job.model, trees, job.settings, job.world) for trees in _portions(job)]
    sums, *others = [evaluate(job.model, job.loss, parts) for parts in portions]
    for other in others:
        sums.add(other.values())
    sums = type(sums)(*job.world.total(sums.values()))
    training_mode(job.model, job.settings)
    metrics = sums.metrics()
    value = metrics["loss"] if job.settings.metric_for_best_model == "loss" else -metrics["accuracy"]
    compare(state, value, job.settings.early_stopping_patience)
    seconds = time.perf_counter() - started
    row = {
        "event": "eval",
        "step": state.step,
        "epoch": epoch,
        "count": int(sums.decided) if any(len(tree.first) for tree in job.eval_trees) else 0,
        "answers": int(sums.answers),
    }
    log(job, row | metrics | {"seconds": round(seconds, 3)})


def compare(state: Compared, value: float, patience: int | None) -> None:
    """Take the value of an evaluation at ``state.step``, less being better: is it the best, and is it time to
    stop? One that is not finite never is the best."""
    if isfinite(value) and (state.best_value is None or value < state.best_value):
        state.best_step, state.best_value, state.stale = state.step, value, 0
    else:
        state.stale += 1
    state.stopped_early = patience is not None and state.stale >= patience


def _portions(job: Training) -> Iterator[Sequence[Tree]]:
    """The validation trees; for a coupled loss, which is that of a step, as many at a time as a step has."""
    if not job.loss.coupled:
        yield job.eval_trees
        return
    counts = [tree.count(job.loss.unit) for tree in job.eval_trees]
    wanted = job.settings.comparisons_per_step(job.world.size)
    for portion in order.portions(range(len(counts)), counts, wanted):
        yield [job.eval_trees[i] for i in portion]


def log(job: Training, row: Row) -> None:
    """Append a row to ``metrics.jsonl`` and pass it on (main process)."""
    if not job.world.main:
        return
    finite = {k: v if not isinstance(v, float) or isfinite(v) else None for k, v in row.items()}
    append_jsonl(job.run.metrics_file, [finite])
    job.tell(finite)


def save(
    job: Training, state: State, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Publish a checkpoint of weights, optimiser, random numbers and state."""
    weights = {name: full_tensor(p.detach()).cpu() for name, p in parameters.items()}
    moments = {
        f"{name}/{key}": full_tensor(value).cpu()
        for name, p in parameters.items()
        for key, value in optimizer.state.get(p, {}).items()
    }
    random = {"cpu": torch.get_rng_state()}
    if job.world.device.startswith("cuda"):
        random["cuda"] = torch.cuda.get_rng_state()
    if job.world.main:
        checkpoint.save(
            job.run,
            state.step,
            {"model": weights, "optimizer": moments, "random": random},
            asdict(state),
            keep=job.settings.save_total_limit,
            protect=kept(state),
        )
    job.world.wait()


def load_best(run: RunDir, state: Compared, parameters: dict[str, nn.Parameter], name: str = "model") -> None:
    """Put the best evaluation's weights into the model; where they are broken, keep the last and say so.

    ``name`` is that of the weights in the checkpoint.
    """
    found = checkpoint.newest(run, at=state.best_step)
    if found is None:
        _log.warning(
            f"the best checkpoint (step {state.best_step}) is broken; the last step's weights are kept"
        )
        state.best_step = None
        return
    tensors, _ = checkpoint.read(found[1])
    for key, parameter in parameters.items():
        load_whole(parameter, tensors[name][key])


def resume(job: Training, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> State:
    """State of the newest verified checkpoint, put into model and optimiser; a fresh one without any."""
    found = checkpoint.newest(job.run)
    if found is None:
        return State()
    tensors, values = checkpoint.read(found[1])
    for name, parameter in parameters.items():
        load_whole(parameter, tensors["model"][name])
    for key, value in tensors["optimizer"].items():
        name, _, part = key.rpartition("/")
        moments = optimizer.state[parameters[name]]
        if value.ndim:
            moments[part] = torch.zeros_like(parameters[name])
            load_whole(moments[part], value)
        else:  # the fused optimiser counts its steps on the device
            moments[part] = value.to(parameters[name].device if not job.world.sharded else "cpu")
    torch.set_rng_state(tensors["random"]["cpu"])
    if "cuda" in tensors["random"] and job.world.device.startswith("cuda"):
        torch.cuda.set_rng_state(tensors["random"]["cuda"])
    state = State(**values)
    if state.best_step is not None and checkpoint.newest(job.run, at=state.best_step) is None:
        state.best_step = state.best_value = None  # lost with the checkpoints walked past: found anew
    if job.world.main:  # what a process that was killed had no time for
        checkpoint.sweep(job.run)
        checkpoint.prune(job.run, state.step, keep=job.settings.save_total_limit, protect=kept(state))
    return state


def kept(state: Compared) -> tuple[int, ...]:
    """Steps whose checkpoints are kept however old they are."""
    return () if state.best_step is None else (state.best_step,)
