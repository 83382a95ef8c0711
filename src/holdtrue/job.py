"""The main job, end to end: settings to a run directory with a trained, measured, saved reward model.

    read and audit rows -> trees -> train -> score the validation pairs -> save -> report

Stands above all rooms and imports them when it runs, so that the run directory exists, with its
settings in it, before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdtrue.errors import Interrupted, ModelError, SettingsError
from holdtrue.rundir import RunDir, disk_errors, now, read_object, write_json, write_text
from holdtrue.settings import EvaluationSettings, Settings, build

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from holdtrue.evaluation.bag_of_words import BagOfWords
    from holdtrue.policy.sft_settings import SftSettings
    from holdtrue.records import Group
    from holdtrue.reward.card import RewardCard
    from holdtrue.reward.scorer import StreamingScorer
    from holdtrue.reward.store import Loaded
    from holdtrue.training.distributed import World
    from holdtrue.training.loop import State
    from holdtrue.training.setup import Setup

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
    return begin(settings, output)


def begin(settings: Settings | SftSettings, output: str | Path) -> RunDir:
    """A new run directory for settings that name a model and data, or need none; raises as :func:`start`."""
    require_files(settings)
    return RunDir.create(output, anchored(settings))


def settings_of(run: RunDir) -> Settings:
    """The settings a run was started with.

    Raises:
        SettingsError: this version does not know them, or they are those of a policy.
    """
    if run.settings().get("task") is not None:
        raise SettingsError(f"{run.path} is a run that fine-tunes a policy; one of a reward model is needed")
    try:
        return build(run.settings())
    except SettingsError as error:
        raise SettingsError(
            f"{run.settings_file}: {error}; where another version of holdtrue began the run, train it again"
        ) from error


def train(
    run: RunDir,
    *,
    tell: Tell = lambda event, values: None,
    stop: Callable[[], bool] = lambda: False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Carry a run from where it stands to its end; returns the evaluation of the validation pairs.

    ``tell`` gets what happens: ``prepared`` (counts), ``metrics`` (every row), ``finished`` (the evaluation
    with its groups and their rewards).

    Raises:
        Interrupted: ``stop`` asked for it and a checkpoint was saved.
        DataError: no usable rows, or the data changed since the run began.
    """
    from holdtrue.training import attempt, distributed

    settings = settings_of(run)
    processes = settings.training.processes
    with (
        distributed.join(processes if processes > 1 else None, settings.training.parallel) as world,
        attempt.claimed(run, world),
        attempt.recorded(run),
    ):
        if world.main:
            _write_world(run, settings, tell, stop)
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
    from holdtrue.training import attempt, distributed, fitting, loop
    from holdtrue.training.setup import set_up

    rejected = run.rejected_file if world.main else None
    if rejected is not None:
        rejected.unlink(missing_ok=True)
    setup = set_up(settings, world.device, rejected=rejected, trust_remote_code=trust)
    if world.main:
        _record(run, setup, world)
        _fit_baseline(run, setup)
    if setup.held_out:
        setup.train.groups.clear()  # their trees are all that is needed from here on
    tell("prepared", run.info())
    if world.sharded:
        distributed.shard(setup.loaded.model, world)
    trackers = attempt.trackers(run, settings.training.report_to, settings.dump(), world)

    def row(values: dict[str, Any]) -> None:
        trackers.write(values)
        tell("metrics", values)

    fitted: dict[str, Any] = {}
    with trackers:
        if settings.training.method == "ridge":
            run.metrics_file.unlink(missing_ok=True)
            fitted = fitting.fit(setup, run, row)
            state = loop.State(seconds=sum(fitted["seconds"].values()))
        else:
            state = loop.train(
                loop.Training(
                    model=setup.loaded.model,
                    loss=settings.loss,
                    trees=setup.train.trees,
                    eval_trees=setup.eval.trees,
                    settings=settings.training,
                    run=run,
                    seed=settings.seed,
                    learning_rate=setup.learning_rate,
                    world=world,
                    tell=row,
                    stop=stop,
                )
            )
    if world.sharded:
        setup.loaded = _unsharded(setup, world, trust)
    return _finish(run, setup, state, fitted, tell) if world.main else {}


def _record(run: RunDir, setup: Setup, world: World) -> None:
    """What the run is made of, into ``run.json`` and ``dropped.jsonl``; refuses data that changed."""
    import torch
    import transformers

    from holdtrue.training import attempt
    from holdtrue.training.preparation import write_dropped

    attempt.refuse_changed_data(run, setup.counts)
    if setup.settings.training.per_device_train_batch_size:
        attempt.refuse_other_processes(run, world.size)
    write_dropped(run.dropped_file, [setup.train, setup.eval, *(setup.pairs or ())])
    run.update_info(
        torch=torch.__version__,
        transformers=transformers.__version__,
        processes=world.size,
        model=setup.describe(),
        data=setup.counts,
    )


def _fit_baseline(run: RunDir, setup: Setup) -> None:
    """The bag of words that every evaluation of the run is set beside, while the texts are at hand."""
    from holdtrue.evaluation import bag_of_words

    if not run.bag_of_words_file.exists():
        with disk_errors(run.path):
            bag_of_words.fit(setup.train.groups).save(run.bag_of_words_file)


def _finish(run: RunDir, setup: Setup, state: State, fitted: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Measure, save and report the trained model; ``fitted`` is what a closed form found."""
    from holdtrue.evaluation.bag_of_words import BagOfWords
    from holdtrue.report import write_report
    from holdtrue.reward import store
    from holdtrue.reward.scorer import RewardScorer

    settings, loaded = setup.settings, setup.loaded
    judged = setup.eval if setup.held_out else setup.train
    name = "validation" if setup.held_out else "training pairs (nothing usable was held out)"
    loaded.model.bf16 = False
    scorer = RewardScorer(loaded, setup.encoder, settings.training.tokens_per_pass(loaded.model.device.type))
    words = BagOfWords.load(run.bag_of_words_file) if setup.held_out else "it was fitted on these very pairs"
    result, rewards = measure(scorer, judged.groups, settings.evaluation, name, words)
    for aspect, found in fitted.get("aspects", {}).items():
        result["aspects"][aspect] = result["aspects"].get(aspect, {}) | found
    lora = settings.model.lora
    with disk_errors(run.model):
        card = _card(setup, result)
        store.publish(loaded, run.model, card, merge=lora is not None and lora.merge)
        kept = _measured_before(run, card.weights_sha256)
        kept["results"] = [result, *(old for old in kept.get("results", []) if old["data"] != name)]
        write_json(run.evaluation_file, kept | {"model_hash": card.weights_sha256})
        run.update_info(
            status="finished",
            finished=now(),
            seconds=round(state.seconds, 1),
            steps=state.step,
            best_step=state.best_step,
            stopped_early=state.stopped_early,
            skipped=state.skipped,
            fit={key: value for key, value in fitted.items() if key != "aspects"} or None,
            model_hash=card.weights_sha256,
        )
        write_report(run)
    tell("finished", {"result": result, "groups": judged.groups, "rewards": rewards})
    return result


def measure(
    scorer: StreamingScorer,
    groups: Sequence[Group],
    settings: EvaluationSettings,
    name: str,
    bag_of_words: BagOfWords | str,
) -> tuple[dict[str, Any], list[NDArray[np.float32]]]:
    """What :func:`holdtrue.evaluation.evaluate` says of a model, what only its scorer knows, and the rewards.

    The scorer knows how well the values of steps follow judgements, how often models that compare agree with
    themselves, and why the hardest mistakes were made.
    """
    from holdtrue.evaluation import evaluate, steps
    from holdtrue.reward.explanation import explain_mistakes
    from holdtrue.reward.scorer import by_aspect, count_reasons, position_consistency

    scored = list(scorer.stream(groups))
    rewards = [item.rewards for item in scored]
    result = evaluate(groups, rewards, settings, name, count_reasons(scored), bag_of_words, by_aspect(scored))
    result |= steps.agreement(groups, [item.steps for item in scored], settings.confidence)
    result |= position_consistency(scored) | explain_mistakes(scorer, groups, result["mistakes"])
    return result, rewards


def _measured_before(run: RunDir, model_hash: str) -> dict[str, Any]:
    """What was measured with this very model before, when a finished run is taken up again."""
    if not run.evaluation_file.exists():
        return {}
    before = read_object(run.evaluation_file)
    return before if before.get("model_hash") == model_hash else {}


def _card(setup: Setup, result: dict[str, Any]) -> RewardCard:
    """What the saved model's card says."""
    reward = result["reward"]
    fitted = setup.held_out and result["temperature"] and not result["temperature_bounded"]
    return setup.card(
        calibration={"temperature": result["temperature"]} if fitted else {},
        reward={"mean": reward["mean"], "std": reward["std"], "count": result["answers"]},
        data={file["path"]: file["sha256"] for file in setup.counts["train"]["files"]},
    )


def anchored(settings: Settings | SftSettings) -> dict[str, Any]:
    """The settings with whole paths, so that a run can be resumed from anywhere."""

    def anchor(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path and Path(path).exists() else path

    values = settings.dump()
    for split in ("train", "eval"):
        values["data"][split] = [anchor(path) for path in values["data"][split]]
    for key in ("path", "chat_template_path"):
        values["model"][key] = anchor(values["model"][key])
    if "reference" in values["loss"]:
        values["loss"]["reference"] = anchor(values["loss"]["reference"])
    if isinstance(settings, Settings) and settings.ridge.states:
        values["ridge"]["states"] = str(Path(settings.ridge.states).absolute())
    return values


def require_files(settings: Settings | SftSettings) -> None:
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


def _write_world(run: RunDir, settings: Settings, tell: Tell, stop: Callable[[], bool]) -> None:
    """The embedded world's data and decoder, once, where the settings name none."""
    folder = run.path / "world"
    if settings.data.train or (folder / "done").exists():
        return
    tell("world", {"folder": str(folder)})
    from holdtrue.worlds.support import SupportWorld

    with disk_errors(folder):
        try:
            SupportWorld().write(folder, seed=settings.seed, stop=stop)
        except Interrupted as error:
            raise Interrupted(f"{error}; continue with: holdtrue resume {run.path}") from None
        write_text(folder / "done", "")


def _with_world(run: RunDir, settings: Settings) -> Settings:
    if settings.data.train:
        return settings
    folder = run.path / "world"
    values = settings.dump()
    values["data"] |= {"train": [str(folder / "train.jsonl")], "eval": [str(folder / "test.jsonl")]}
    values["model"] |= {"path": str(folder / "policy")}
    return build(values)


def validation_groups(run: RunDir) -> list[Group]:
    """What a run was validated on, read again; empty when nothing was held out.

    Raises:
        DataError: a file of the run's data is gone or no longer what it was.
    """
    from holdtrue.data.splits import read_splits
    from holdtrue.training import attempt

    splits = read_splits(_with_world(run, settings_of(run)).data, None)
    attempt.refuse_changed_data(run, {split: report.as_json() for split, report in splits.reports.items()})
    return splits.eval


def _unsharded(setup: Setup, world: World, trust: bool) -> Loaded:
    """The trained model in one piece; every process gathers, each then holds a whole copy."""
    from holdtrue.reward import store
    from holdtrue.training.distributed import full_tensor
    from holdtrue.training.setup import hold_master_weights

    settings = setup.settings
    # the root's parameters are still those the last validation gathered, from before the best were loaded
    setup.loaded.model.reshard()  # type: ignore[operator]
    weights = {name: full_tensor(p.detach()).cpu() for name, p in setup.loaded.model.named_parameters()}
    whole = store.load(settings.model, seed=settings.seed, device=world.device, trust_remote_code=trust)
    hold_master_weights(whole)
    whole.model.load_state_dict(weights, strict=False)
    return whole
