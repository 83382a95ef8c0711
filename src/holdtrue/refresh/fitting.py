"""One training inside a refresh: rows and a gradient step in, a saved reward model out.

Each is an ordinary run (settings, metrics, checkpoints) in a folder of its own. One that was interrupted goes
on where it stood; one that is finished is read and not trained again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from holdtrue.data.reader import ReadReport
from holdtrue.data.splits import Splits
from holdtrue.errors import SettingsError
from holdtrue.records import Group
from holdtrue.refresh.context import RefreshContext
from holdtrue.reward import store
from holdtrue.reward.ensemble import scale_of
from holdtrue.reward.scorer import RewardScorer
from holdtrue.rundir import RunDir, disk_errors, write_text
from holdtrue.training import checkpoint, coupled, loop
from holdtrue.training.distributed import World, default_device
from holdtrue.training.setup import Setup, set_up
from holdtrue.training.step import GradientStep

REFERENCE = 512
"""Groups whose rewards make the mean and standard deviation in the model's card."""

MakeStep = Callable[[Setup, GradientStep, World, int], GradientStep]
"""Makes a run's gradient step of its setup, the step its loss has by default, and the steps it has done."""


@dataclass(frozen=True)
class Fitted:
    """A trained reward model: ready to score, and where it is saved."""

    scorer: RewardScorer
    folder: Path


def fit(
    context: RefreshContext,
    groups: Sequence[Group],
    name: str = "",
    *,
    seed: int | None = None,
    head_seed: int | None = None,
    rate: float = 1.0,
    make_step: MakeStep | None = None,
) -> Fitted:
    """Train a reward model on these rows.

    Args:
        name: folder of the run inside the context's; by default that folder itself.
        seed: of the order of the rows, by default the context's; ``head_seed`` that of a fresh head, by
            default the same.
        rate: factor of the learning rate.

    Raises:
        SettingsError: the folder holds a run of other settings or rows. And what training raises.
    """
    world = context.world or World(device=default_device())
    seed = context.seed if seed is None else seed
    head_seed = seed if head_seed is None else head_seed
    settings = context.settings.model_copy(update={"seed": head_seed})
    made_of = settings.dump() | {"order": seed, "rate": rate, "rows": _hash(groups), "name": name}
    run = _open(context.folder / name, made_of, world)
    if not run.model.exists():
        splits = Splits(list(groups), list(context.held_out), {"train": ReadReport()}, {})
        setup = set_up(settings, world.device, splits=splits)
        done = checkpoint.newest(run)
        step = coupled.gradient_step(settings.loss, world)
        if make_step is not None:
            step = make_step(setup, step, world, done[0] if done else 0)
        loop.train(
            loop.Training(
                model=setup.loaded.model,
                loss=settings.loss,
                trees=setup.train.trees,
                eval_trees=setup.eval.trees,
                settings=settings.training,
                run=run,
                seed=seed,
                learning_rate=setup.learning_rate * rate,
                world=world,
                gradient_step=step,
                tell=context.tell,
                stop=context.stop,
            )
        )
        if world.main:
            _publish(context, setup, run, groups)
        world.wait()
    return Fitted(scorer_of(store.load_trained(run.model, device=world.device), context), run.model)


def seeds(seed: int, count: int) -> list[int]:
    """Seeds of members: the first is the seed itself, so that it is the model ``retrain`` makes."""
    more = np.random.SeedSequence(seed).generate_state(max(count - 1, 1)).tolist()
    return [seed, *more][:count]


def _open(path: Path, made_of: dict[str, Any], world: World) -> RunDir:
    """The run of these settings and rows, new or begun. Its folder may hold the runs of members as well."""
    run = RunDir(path)
    if world.main and not run.settings_file.is_file():
        with disk_errors(path):
            run.checkpoints.mkdir(parents=True, exist_ok=True)
            write_text(run.settings_file, yaml.safe_dump(made_of, sort_keys=False, allow_unicode=True))
    world.wait()
    before = run.settings()
    changed = [key for key, value in made_of.items() if before.get(key) != value]
    if changed:
        raise SettingsError(f"{path} holds a refresh with other {', '.join(changed)}; choose another folder")
    return run


def scorer_of(loaded: store.Loaded, context: RefreshContext) -> RewardScorer:
    """A model that reads texts as in training, and with its token budget."""
    data, model = context.settings.data, loaded.model
    budget = context.settings.training.tokens_per_pass(model.device.type, model.layout)
    return RewardScorer(loaded, loaded.encoder(data.max_length, data.truncation), budget)


def _publish(context: RefreshContext, setup: Setup, run: RunDir, groups: Sequence[Group]) -> None:
    """Save the model with the scale of its rewards; its checkpoints are not needed any more."""
    loaded = setup.loaded
    loaded.model.bf16 = False
    answered = scorer_of(loaded, context).score((context.held_out or groups)[:REFERENCE])
    card = setup.card(reward=scale_of(answered, "the new model") | {"count": sum(map(len, answered))})
    lora = context.settings.model.lora
    with disk_errors(run.model):
        store.publish(loaded, run.model, card, merge=lora is not None and lora.merge)
        shutil.rmtree(run.checkpoints)


def _hash(groups: Sequence[Group]) -> str:
    """Hash of all that training sees of the rows."""
    digest = hashlib.sha256()
    for group in groups:
        said = [asdict(comparison) for comparison in group.comparisons]
        texts = [answer.text for answer in group.answers]
        digest.update(json.dumps([group.prompt_key, texts, said], ensure_ascii=True).encode())
    return digest.hexdigest()[:16]
