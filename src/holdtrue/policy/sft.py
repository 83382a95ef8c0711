"""Supervised fine-tuning: examples to a run directory with a policy that has learned their answers.

    loss = Σ w·term / Σ w over the learned tokens of a step        (the losses in ``sft_losses``)

There is no loop here: the one of reward models gets a policy for its model, trees of one sequence each, and
the gradient step below. So schedules, early stopping, checkpoints, resuming and processes are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers

from holdtrue.data.examples import Example, ExampleReport, read_examples
from holdtrue.data.splits import held_out
from holdtrue.errors import DataError
from holdtrue.losses import Loss
from holdtrue.policy import model as policies
from holdtrue.policy.completions import Completions, prompt_key
from holdtrue.policy.sft_settings import ExampleSettings, SftSettings, build
from holdtrue.reward.card import weights_hash
from holdtrue.reward.model import Batch, RewardModel
from holdtrue.reward.store import Loaded
from holdtrue.rundir import RunDir, append_jsonl, disk_errors, now
from holdtrue.tokens.conversation import Encoder
from holdtrue.training import attempt, distributed, loop
from holdtrue.training.preparation import Prepared, write_dropped
from holdtrue.training.setup import computes_in_bf16, hold_master_weights, width_of
from holdtrue.training.step import Sums

Tell = Callable[[str, dict[str, Any]], None]


@dataclass
class TokenSums(Sums):
    """Sums over learned tokens, ``correct`` where they are the likeliest; examples: ``answers``."""

    counted: ClassVar[str] = "examples"

    def metrics(self) -> dict[str, float]:
        """Loss (nats per token) and the share of tokens that are the likeliest."""
        mean = {key: super(TokenSums, self).metrics()[key] for key in ("loss", "accuracy")}
        return mean | {"learned_tokens": self.decided}


def step(model: RewardModel, loss: Loss, batches: Iterable[Batch], *, learn: bool = True) -> TokenSums:
    """Gradient of the summed terms, batch by batch, unless only the sums are wanted."""
    sums = TokenSums()
    for batch in batches:
        with torch.set_grad_enabled(learn):
            out = model(batch)
            terms = loss(out, batch.targets)
            total = (terms.terms * terms.weights).sum()
        if learn:
            total.backward()  # type: ignore[no-untyped-call]
        examples, counts = float(batch.targets.counted.sum()), batch.targets.counted > 0
        used = counts.repeat_interleave(batch.targets.marks)
        assert out.likeliest is not None
        sums.loss += total.item()
        sums.weight += terms.weights.sum().item()
        sums.correct += float((out.likeliest & used).sum())
        sums.decided += float(used.sum())
        sums.answers += examples
        sums.comparisons += examples
    return sums


evaluate = partial(step, learn=False)


@dataclass
class Setup:
    """Policy and both splits of a run."""

    settings: SftSettings
    loaded: Loaded
    encoder: Encoder
    train: Prepared
    eval: Prepared
    stops: list[int] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def learning_rate(self) -> float:
        """Peak rate: as set, or 0.08 / width, ten times that for adapters."""
        rate = 0.08 / width_of(self.loaded) * (10 if self.settings.model.lora else 1)
        return self.settings.training.learning_rate or rate

    def describe(self) -> dict[str, Any]:
        """The model's part of ``run.json``."""
        model = self.loaded.model
        parameters = list(model.parameters())
        return {
            "path": self.loaded.base,
            "architecture": type(model.inner).__name__,
            "parameters": sum(p.numel() for p in parameters),
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            "layout": model.layout,
            "layout_reason": model.layout_reason,
            "precision": "bf16 autocast" if model.bf16 else "fp32",
            "max_length": self.encoder.max_length,
            "chat_template": self.loaded.template,
            "stops": {str(self.loaded.tokenizer.convert_ids_to_tokens(stop)): stop for stop in self.stops},
            "fresh": [],
            "device": str(model.device),
            "learning_rate": self.learning_rate,
        }


def set_up(
    settings: SftSettings, device: str, *, rejected: Path | None = None, trust_remote_code: bool = False
) -> Setup:
    """Read and encode the examples, load the policy and make it ready.

    ``rejected`` is where unreadable rows are listed.

    Raises:
        DataError: no usable example is left. ModelError, SettingsError: as in loading.
    """
    read = read_splits(settings.data)
    loaded = policies.load(
        settings.model, seed=settings.seed, device=device, trust_remote_code=trust_remote_code
    )
    encoder = loaded.encoder(settings.data.max_length, settings.data.truncation)
    assert isinstance(encoder, Encoder)
    completions = Completions(loaded, encoder, settings.data.turns, settings.data.plain_text)
    parts, counts = {}, {}
    for split, (examples, report) in read.items():
        parts[split] = prepared = completions.prepare(examples, split)
        if split == "train" and not prepared.trees:
            raise DataError(f"no usable example left: {_reasons(prepared)}")
        if split == "eval" and settings.data.eval and not prepared.trees:
            raise DataError(f"no usable example in the validation data (data.eval): {_reasons(prepared)}")
        counts[split] = _counts(prepared, report)
        if rejected is not None and report is not None and report.unread_rows:
            append_jsonl(rejected, report.unread_rows)
    model = loaded.model
    assert isinstance(model, policies.Policy)
    model.bf16 = computes_in_bf16(loaded, settings.training)
    hold_master_weights(loaded)
    if settings.training.gradient_checkpointing:
        model.recompute_activations()
    if settings.loss.reference is not None:
        model.compare_with(
            policies.load_reference(settings.loss.reference, loaded, trust_remote_code=trust_remote_code)
        )
    stops = [stop for stop, _ in completions.stops.most_common()]
    return Setup(settings, loaded, encoder, parts["train"], parts["eval"], stops, counts)


def read_splits(settings: ExampleSettings) -> dict[str, tuple[list[Example], ExampleReport | None]]:
    """Examples of both splits, and the report of each that was read from files of its own.

    Raises:
        DataError: a file is not there, or none of its rows can be read.
    """
    train, report = read_examples(settings.train)
    if settings.eval:
        return {"train": (train, report), "eval": read_examples(settings.eval)}
    out = held_out([prompt_key(example) for example in train], settings.eval_fraction)
    pairs = list(zip(train, out, strict=True))
    kept = [example for example, held in pairs if not held]
    return {"train": (kept, report), "eval": ([example for example, held in pairs if held], None)}


def _counts(prepared: Prepared, report: ExampleReport | None) -> dict[str, Any]:
    """What was read and prepared of a split, as it stands in ``run.json``."""
    learned = sum(len(marks) for tree in prepared.trees for marks in tree.marks)
    counts = prepared.summary() | {"tokens_learned": learned}
    if report is not None:
        counts |= {"rejected": dict(report.faults), "layouts": dict(report.layouts), "files": report.files}
    return counts


def _reasons(prepared: Prepared) -> str:
    said = ", ".join(f"{count} {reason}" for reason, count in prepared.dropped.most_common(3))
    longer = (
        "; raise data.max_length or set data.truncation" if prepared.dropped["longer than max_length"] else ""
    )
    return (said or "there were none") + longer


def settings_of(run: RunDir) -> SftSettings:
    """The settings a run was started with."""
    return build(run.settings())


def train(
    run: RunDir,
    *,
    tell: Tell = lambda event, values: None,
    stop: Callable[[], bool] = lambda: False,
    trust_remote_code: bool = False,
) -> None:
    """Carry a run from where it stands to its end: a saved policy.

    ``tell`` gets what happens: ``prepared`` (counts) and ``metrics`` (every row).

    Raises:
        Interrupted: ``stop`` asked for it and a checkpoint was saved.
        DataError: no usable rows, or the data changed since the run began.
    """
    settings = settings_of(run)
    processes = settings.training.processes
    with (
        distributed.join(processes if processes > 1 else None, "data") as world,
        attempt.claimed(run, world),
        attempt.recorded(run),
    ):
        rejected = run.rejected_file if world.main else None
        if rejected is not None:
            rejected.unlink(missing_ok=True)
        setup = set_up(settings, world.device, rejected=rejected, trust_remote_code=trust_remote_code)
        if world.main:
            _record(run, setup, world)
            tell("prepared", run.info())
        trackers = attempt.trackers(run, settings.training.report_to, settings.dump(), world)

        def row(values: dict[str, Any]) -> None:
            trackers.write(values)
            tell("metrics", values)

        with trackers:
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
                    gradient_step=step,
                    evaluate=evaluate,
                    tell=row,
                    stop=stop,
                )
            )
        if world.main:
            _save(run, setup, state)


def _record(run: RunDir, setup: Setup, world: distributed.World) -> None:
    """What the run is made of, into ``run.json`` and ``dropped.jsonl``; refuses data that changed."""
    attempt.refuse_changed_data(run, setup.counts)
    if setup.settings.training.per_device_train_batch_size:
        attempt.refuse_other_processes(run, world.size)
    write_dropped(run.dropped_file, [setup.train, setup.eval])
    run.update_info(
        torch=torch.__version__,
        transformers=transformers.__version__,
        processes=world.size,
        model=setup.describe(),
        data=setup.counts,
    )


def _save(run: RunDir, setup: Setup, state: loop.State) -> None:
    lora = setup.settings.model.lora
    with disk_errors(run.model):
        policies.publish(setup.loaded, run.model, setup.stops, merge=lora is not None and lora.merge)
        run.update_info(
            status="finished",
            finished=now(),
            seconds=round(state.seconds, 1),
            steps=state.step,
            best_step=state.best_step,
            stopped_early=state.stopped_early,
            skipped=state.skipped,
            model_hash=weights_hash(run.model),
        )
