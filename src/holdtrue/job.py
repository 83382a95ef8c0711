"""The main job, end to end: settings to a run directory with a trained, measured, saved reward model.

    read and audit rows -> trees -> train -> score the validation pairs -> save -> report

Stands above all rooms and imports them when it runs, so that the run directory exists, with its
settings in it, before torch is loaded.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdtrue import __version__
from holdtrue.errors import (
    DataError,
    HoldtrueError,
    Interrupted,
    ModelError,
    QualityError,
    ResourceError,
    SettingsError,
)
from holdtrue.rundir import RunDir, disk_errors, write_json, write_text
from holdtrue.settings import Settings, build

if TYPE_CHECKING:
    from holdtrue.reward.card import RewardCard
    from holdtrue.reward.store import Loaded
    from holdtrue.training.distributed import World
    from holdtrue.training.loop import State
    from holdtrue.training.preparation import Prepared

Tell = Callable[[str, dict[str, Any]], None]


def start(settings: Settings, output: str | Path) -> RunDir:
    """A new run directory for these settings; without data and model the embedded world is written into it.

    Raises:
        SettingsError: data without a model (or the reverse), or the directory is in use.
        DataError, ModelError: a file that is named does not exist; then nothing is written.
    """
    if bool(settings.data.train) != bool(settings.model.path):
        missing = "a model (--model PATH)" if settings.data.train else "data (holdtrue train PAIRS...)"
        raise SettingsError(
            f"training needs {missing}; with neither, the embedded support-desk world is used"
        )
    _require_files(settings)
    run = RunDir.create(output, settings.dump())
    run.update_info(
        holdtrue=__version__,
        python=platform.python_version(),
        command=sys.argv,
        started=now(),
        status="running",
    )
    return run


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def train(
    run: RunDir,
    *,
    tell: Tell = lambda event, values: None,
    stop: Callable[[], bool] = lambda: False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Carry a run from where it stands to its end; returns the evaluation of the validation pairs.

    ``tell`` gets what happens: ``prepared`` (counts), ``metrics`` (every row), ``finished``.

    Raises:
        Interrupted: ``stop`` asked for it and a checkpoint was saved.
        DataError: no usable rows, or the data changed since the run began.
    """
    from holdtrue.training import distributed

    settings = build(run.settings())
    processes = settings.training.processes
    with (
        distributed.join(processes if processes > 1 else None, settings.training.parallel) as world,
        _claimed(run, world),
        _status(run),
    ):
        if world.main:
            _write_world(run, settings, tell)
        world.wait()
        return _train(
            run,
            _with_world(run, settings),
            world,
            tell if world.main else lambda event, values: None,
            stop,
            trust_remote_code,
        )


def _train(
    run: RunDir, settings: Settings, world: World, tell: Tell, stop: Callable[[], bool], trust: bool
) -> dict[str, Any]:
    import torch
    import transformers

    from holdtrue.reward import store
    from holdtrue.training import checkpoint, distributed, loop, sinks
    from holdtrue.training.preparation import prepare, read_splits, write_dropped

    rejected = run.rejected_file if world.main else None
    if rejected is not None:
        rejected.unlink(missing_ok=True)
    train_groups, eval_groups, reports = read_splits(settings.data, rejected)
    loaded = store.load(settings.model, seed=settings.seed, device=world.device, trust_remote_code=trust)
    encoder = loaded.encoder(settings.data.max_length, settings.data.truncation)
    most = settings.data.max_answers_per_tree
    training = prepare(train_groups, encoder, most, "train")
    validation = prepare(eval_groups, encoder, most, "eval")
    if not training.trees:
        raise DataError(f"no usable comparisons left: {_reasons(training.dropped)}")
    set_precision(loaded, settings)
    hold_master_weights(loaded)
    if settings.training.gradient_checkpointing:
        loaded.model.recompute_activations()
        loaded.model.inner.enable_input_require_grads()
    counts = {"train": training.summary(), "eval": validation.summary()}
    for name, report in reports.items():
        counts[name] |= report.as_json()
    if world.main:
        _refuse_changed_data(run, counts)
        write_dropped(run.dropped_file, [training, validation])
        run.update_info(
            torch=torch.__version__,
            transformers=transformers.__version__,
            processes=world.size,
            model=describe(loaded, encoder.max_length, settings),
            data=counts,
        )
    tell("prepared", run.info())
    if world.sharded:
        distributed.shard(loaded.model, world)
    found = checkpoint.newest(run) if world.main else None
    if world.main:
        sinks.rewind(run, found[0] if found else 0)
    names = settings.training.report_to if world.main else []
    trackers = sinks.Sinks(names, run, settings.dump(), resumed_at=found[0] if found else None)
    started = time.perf_counter()

    def row(values: dict[str, Any]) -> None:
        trackers.write(values)
        tell("metrics", values)

    with trackers:
        state = loop.train(
            loop.Training(
                model=loaded.model,
                loss=settings.loss,
                trees=training.trees,
                eval_trees=validation.trees,
                settings=settings.training,
                run=run,
                seed=settings.seed,
                learning_rate=peak_rate(settings, loaded),
                world=world,
                tell=row,
                stop=stop,
            )
        )
    if world.sharded:
        loaded = _unsharded(loaded, settings, world, trust)
    if not world.main:
        return {}
    return _finish(run, settings, loaded, training, validation, state, time.perf_counter() - started, tell)


def _finish(
    run: RunDir,
    settings: Settings,
    loaded: Loaded,
    training: Prepared,
    validation: Prepared,
    state: State,
    seconds: float,
    tell: Tell,
) -> dict[str, Any]:
    from holdtrue.report import write_report
    from holdtrue.reward import store

    judged = validation if validation.trees else training
    name = "validation" if validation.trees else "training pairs (nothing was held out)"
    loaded.model.eval()
    loaded.model.bf16 = False
    from holdtrue.evaluation import evaluate
    from holdtrue.reward.scorer import RewardScorer

    encoder = loaded.encoder(settings.data.max_length, settings.data.truncation)
    scorer = RewardScorer(loaded, encoder, settings.training.max_tokens_per_pass)
    scored = list(scorer.stream(judged.groups))
    unscored: dict[str, int] = {}
    for item in scored:
        for reason in item.reasons:
            if reason:
                unscored[reason] = unscored.get(reason, 0) + 1
    result = evaluate(judged.groups, [s.rewards for s in scored], settings.evaluation, name, unscored)
    hashes = {file["path"]: file["sha256"] for file in run.info()["data"]["train"]["files"]}
    card = make_card(settings, loaded, training, encoder.max_length, result, hashes)
    lora = settings.model.lora
    with disk_errors(run.model):
        store.publish(loaded, run.model, card, merge=lora is not None and lora.merge)
        write_json(run.evaluation_file, {"model_hash": card.weights_sha256, "results": [result]})
        run.update_info(
            status="finished",
            finished=now(),
            seconds=round(run.info().get("seconds", 0.0) + seconds, 1),
            steps=state.step,
            best_step=state.best_step,
            stopped_early=state.stopped_early,
            skipped=state.skipped,
            model_hash=card.weights_sha256,
        )
        write_report(run)
    tell("finished", {"result": result, "report": str(run.report_file), "model": str(run.model)})
    return result


def make_card(
    settings: Settings,
    loaded: Loaded,
    training: Prepared,
    max_length: int,
    result: dict[str, Any],
    hashes: dict[str, str],
) -> RewardCard:
    """What the saved model's card says; ``hashes`` are the training files' SHA-256."""
    from holdtrue.reward.card import RewardCard
    from holdtrue.training.preparation import length_quantiles

    last = [int(answer[-1]) for tree in training.trees for answer in tree.answers]
    common = max(set(last), key=last.count)
    share = last.count(common) / len(last)
    reward = result["reward"]
    return RewardCard(
        base_model=loaded.base,
        pooled={
            "policy": "last real token, by position or attention mask",
            "id": common,
            "text": loaded.tokenizer.convert_ids_to_tokens(common),
            "share": round(share, 4),
        },
        eos="chat template" if settings.data.plain_text == "chat" else "appended",
        max_length=max_length,
        truncation=settings.data.truncation,
        loss=settings.dump()["loss"],
        calibration={"temperature": result["temperature"]} if result["temperature"] else {},
        reward={"mean": reward["mean"], "std": reward["std"], "count": result["count"]},
        lengths=length_quantiles(training.lengths),
        data=hashes,
    )


def hold_master_weights(loaded: Loaded) -> None:
    """What is trained in float32, whatever the frozen weights are held in."""
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def set_precision(loaded: Loaded, settings: Settings) -> None:
    """bfloat16 autocast as set, or by default where hardware computes it natively and it pays."""
    import torch

    wanted = settings.training.bf16
    if wanted is None:
        if loaded.model.device.type == "cuda":
            wanted = torch.cuda.is_bf16_supported()
        else:
            wide = loaded.model.inner.config.get_text_config().hidden_size >= 256
            wanted = wide and torch.cpu._is_avx512_bf16_supported()
    loaded.model.bf16 = wanted


def peak_rate(settings: Settings, loaded: Loaded) -> float:
    """Peak learning rate: as set, or 0.04 / width, ten times that for adapters."""
    if settings.training.learning_rate is not None:
        return settings.training.learning_rate
    rate = 0.04 / loaded.model.inner.config.get_text_config().hidden_size
    return float(rate * (10 if settings.model.lora else 1))


def describe(loaded: Loaded, max_length: int, settings: Settings) -> dict[str, Any]:
    """The model's part of ``run.json``."""
    parameters = list(loaded.model.parameters())
    return {
        "path": loaded.base,
        "architecture": type(loaded.model.inner).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "layout": loaded.model.layout,
        "layout_reason": loaded.model.layout_reason,
        "precision": "bf16 autocast" if loaded.model.bf16 else "fp32",
        "max_length": max_length,
        "chat_template": loaded.template,
        "device": str(loaded.model.device),
        "learning_rate": peak_rate(settings, loaded),
    }


def _require_files(settings: Settings) -> None:
    """Refuse paths that do not exist, as far as that can be told without loading anything."""
    from holdtrue.data.files import resources

    resources([*settings.data.train, *settings.data.eval])
    model, template = settings.model.path, settings.model.chat_template_path
    if model is not None and not Path(model).exists():
        # one slash at most, and not into a folder of ours: may be the name of a model on the hub
        parts = Path(model).parts
        if model.startswith((".", "/", "~")) or len(parts) > 2 or Path(parts[0]).is_dir():
            raise ModelError(f"model {model} does not exist")
    if template is not None and not Path(template).is_file():
        raise ModelError(f"chat template {template} does not exist")


def _write_world(run: RunDir, settings: Settings, tell: Tell) -> None:
    """The embedded world's data and decoder, once, where the settings name none."""
    folder = run.path / "world"
    if settings.data.train or (folder / "done").exists():
        return
    tell("world", {"folder": str(folder)})
    from holdtrue.worlds.support import SupportWorld

    with disk_errors(folder):
        SupportWorld().write(folder, seed=settings.seed)
        write_text(folder / "done", "")


def _with_world(run: RunDir, settings: Settings) -> Settings:
    if settings.data.train:
        return settings
    folder = run.path / "world"
    values = settings.dump()
    values["data"] |= {"train": [str(folder / "train.jsonl")], "eval": [str(folder / "test.jsonl")]}
    values["model"] |= {"path": str(folder / "policy")}
    return build(values)


def _refuse_changed_data(run: RunDir, counts: dict[str, Any]) -> None:
    before = run.info().get("data")
    if before is None:
        return
    for split, now_counts in counts.items():
        then, read = (
            {file["path"]: file["sha256"] for file in part.get("files", [])}
            for part in (before[split], now_counts)
        )
        for path in then.keys() | read.keys():
            if then.get(path) != read.get(path):
                what = "changed" if path in then and path in read else "came" if path in read else "went"
                raise DataError(f"{path} {what} since this run began; start a new run to train on it")


def _reasons(counter: Any) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counter.most_common(3)) or "no comparisons"


def _unsharded(loaded: Loaded, settings: Settings, world: World, trust: bool) -> Loaded:
    from holdtrue.reward import store
    from holdtrue.training.distributed import full_tensor

    weights = {name: full_tensor(p.detach()).cpu() for name, p in loaded.model.named_parameters()}
    whole = store.load(settings.model, seed=settings.seed, device=world.device, trust_remote_code=trust)
    hold_master_weights(whole)
    whole.model.load_state_dict(weights, strict=False)
    return whole


@contextmanager
def _claimed(run: RunDir, world: World) -> Iterator[None]:
    """The run for this process and its siblings alone, and ``run.json`` saying that it is at work."""
    with run.claim() if world.main else nullcontext():
        if world.main:
            with disk_errors(run.path):
                run.update_info(status="running", exit_code=None, error=None)
        world.wait()
        yield


@contextmanager
def _status(run: RunDir) -> Iterator[None]:
    """Record in ``run.json`` how the run ended; of several processes the first to say so is believed.

    When one fails, the others only see that the connection to it broke.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            error = ResourceError("out of memory; lower training.max_tokens_per_pass or data.max_length")
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        code = error.exit_code if isinstance(error, HoldtrueError) else 5 if stopped else 1
        with disk_errors(run.path):
            if run.info().get("status") == "running":
                status = "interrupted" if stopped else "failed"
                run.update_info(status=status, exit_code=code, error=str(error) or type(error).__name__)
        if isinstance(error, ResourceError):
            raise error from None
        raise


__all__ = ["QualityError", "start", "train"]
