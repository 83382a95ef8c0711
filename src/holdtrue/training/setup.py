"""What a run is made of before its first step: the model ready to train and the trees it trains on.

Training and its plan set up the same way, so what a plan says is what a run does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdtrue.data.splits import Splits, read_splits
from holdtrue.errors import DataError, SettingsError
from holdtrue.losses import require_compatible
from holdtrue.records import Group
from holdtrue.reward import store
from holdtrue.reward.card import READS, RewardCard, read_token
from holdtrue.reward.causal import keep_language_head
from holdtrue.reward.kinds import ComparingKind
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.settings import Settings, TrainingSettings
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.joint import JointEncoder
from holdtrue.tokens.tree import PAIRS, Lesson
from holdtrue.training.lessons import require_lessons
from holdtrue.training.preparation import Prepared, length_quantiles, prepare
from holdtrue.training.ridge import require_learnable

_NOTHING_FOR_THE_GATE = "a gate is trained on comparisons, and no usable one is among the training rows"


@dataclass
class Setup:
    """Model, encoder and both splits of a run.

    Attributes:
        counts: per split what was read, kept, dropped and cut, as it stands in ``run.json``.
        pairs: comparisons of both splits that a gate is trained on, for kinds that have one.
    """

    settings: Settings
    loaded: store.Loaded
    encoder: Encoder | JointEncoder
    train: Prepared
    eval: Prepared
    counts: dict[str, Any]
    pairs: tuple[Prepared, Prepared] | None = None

    @property
    def held_out(self) -> bool:
        """Whether there is anything to measure on that was not trained on."""
        return bool(self.eval.trees or (self.pairs is not None and self.pairs[1].trees))

    @property
    def learning_rate(self) -> float:
        """Peak rate: as set, or 0.04 / width, ten times that for adapters."""
        if self.settings.training.learning_rate is not None:
            return self.settings.training.learning_rate
        rate = 0.04 / width_of(self.loaded)
        return float(rate * (10 if self.settings.model.lora else 1))

    def describe(self) -> dict[str, Any]:
        """The model's part of ``run.json``."""
        model = self.loaded.model
        parameters = list(model.parameters())
        return {
            "path": self.loaded.base,
            "kind": model.kind.model_dump(mode="json"),
            "architecture": type(model.inner).__name__,
            "parameters": sum(p.numel() for p in parameters),
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            "layout": model.layout,
            "layout_reason": model.layout_reason,
            "precision": "bf16 autocast" if model.bf16 else "fp32",
            "max_length": self.encoder.max_length,
            "chat_template": self.loaded.template,
            "pool": model.pool,
            "fresh": self.loaded.fresh,
            "device": str(model.device),
            "learning_rate": self.learning_rate,
        }

    def card(self, **measured: Any) -> RewardCard:
        """The reward card of the trained model: what is known of it before anything is ``measured``."""
        data, pool = self.settings.data, self.loaded.model.pool
        last = [int(answer[-1]) for tree in self.train.trees for answer in tree.answers]
        compares = isinstance(self.loaded.model.kind, ComparingKind)
        read = {"policy": READS[pool]}
        return RewardCard(
            base_model=self.loaded.base,
            pooled={} if compares else read if pool != "last" else read_token(last, self.loaded.tokenizer),
            plain_text=data.plain_text,
            max_length=self.encoder.max_length,
            truncation=data.truncation,
            loss=self.settings.dump()["loss"],
            lengths=length_quantiles(self.train.lengths),
            **measured,
        )


def set_up(
    settings: Settings,
    device: str,
    *,
    splits: Splits | None = None,
    rejected: Path | None = None,
    trust_remote_code: bool = False,
) -> Setup:
    """Read and encode the data, load the model and make it ready: precision, master weights, recomputation.

    ``splits`` are rows at hand, by default those of the files that the settings name; ``rejected`` is where
    unreadable ones are listed.

    Raises:
        DataError: no usable comparison is left. ModelError, SettingsError: as in loading.
    """
    kind, loss = store.chosen_kind(settings.model), settings.loss
    require_compatible(kind, loss)
    ridge = settings.training.method == "ridge"
    if isinstance(kind, Aspects) and not ridge:
        _refuse_unfitted(kind)
    splits = splits or read_splits(settings.data, rejected)
    require_lessons(splits.train, loss, kind, splits.reports["train"])
    loss.check([*splits.train, *splits.eval])
    gated = ridge and kind.marks == "prompt"
    if gated and not any(group.comparisons for group in splits.train):
        raise DataError(_NOTHING_FOR_THE_GATE)
    loaded = store.load(
        settings.model, seed=settings.seed, device=device, trust_remote_code=trust_remote_code
    )
    if "logprobs" in loss.reads:
        keep_language_head(loaded, trust_remote_code=trust_remote_code)
    encoder = loaded.encoder(settings.data.max_length, settings.data.truncation)
    lesson = Lesson(loss.unit, loss.target, kind.ratings)
    most = settings.data.max_answers_per_tree
    pairs = None
    if gated:
        train, train_pairs = _with_pairs(splits.train, encoder, most, "train", lesson)
        held_out, held_out_pairs = _with_pairs(splits.eval, encoder, most, "eval", lesson)
        pairs = train_pairs, held_out_pairs
    else:
        both = isinstance(kind, ComparingKind) and kind.orders == "both"
        train = prepare(splits.train, encoder, most, "train", lesson, both)
        held_out = prepare(splits.eval, encoder, most, "eval", lesson)
    setup = Setup(settings, loaded, encoder, train, held_out, _counts(splits, train, held_out, pairs), pairs)
    _require_usable(setup)
    _make_ready(loaded, settings)
    return setup


def _counts(
    splits: Splits, train: Prepared, held_out: Prepared, pairs: tuple[Prepared, Prepared] | None
) -> dict[str, Any]:
    """What was read, transformed and prepared of each split."""
    counts = {"train": train.summary(), "eval": held_out.summary()}
    if pairs is not None:
        counts["train"]["gate"], counts["eval"]["gate"] = (prepared.summary() for prepared in pairs)
    for name, report in splits.reports.items():
        read = report.as_json()
        read["repaired"] |= counts[name]["repaired"]
        counts[name] |= read
    for name, changes in splits.transformed.items():
        counts[name]["transformed"] = changes
    return counts


def _require_usable(setup: Setup) -> None:
    """Refuse data of which nothing is left to train or, where it was given, to validate on.

    Raises:
        DataError: it says why the rows were left out.
    """
    settings, train, kind = setup.settings, setup.train, setup.loaded.model.kind
    what = "labels" if settings.loss.target == "accepted" else settings.loss.target
    if not train.trees:
        raise DataError(f"no usable {what} left: {_reasons(train)}")
    if settings.data.eval and not setup.held_out:
        raise DataError(
            f"no usable {what} in the validation data (data.eval): {_reasons(setup.eval)}; "
            "without --eval, training prompts are held out"
        )
    if settings.training.method == "ridge":
        require_learnable(
            np.concatenate([tree.ratings for tree in train.trees]),
            [tree.key for tree in train.trees for _ in tree.answers],
            kind.ratings,
        )
    if setup.pairs is not None and not setup.pairs[0].trees:
        raise DataError(_NOTHING_FOR_THE_GATE)


def _make_ready(loaded: store.Loaded, settings: Settings) -> None:
    """Precision, what is trained, master weights and recomputation."""
    model = loaded.model
    if settings.training.method == "ridge":  # states are those that scoring will see
        model.bf16 = settings.training.bf16 is True
        model.requires_grad_(False)
        model.head.requires_grad_(True)
    else:
        model.bf16 = computes_in_bf16(loaded, settings.training)
    hold_master_weights(loaded)
    if settings.training.gradient_checkpointing:
        model.recompute_activations()


def _with_pairs(
    groups: list[Group], encoder: Encoder | JointEncoder, most: int, split: str, lesson: Lesson
) -> tuple[Prepared, Prepared]:
    """Trees of the lesson, and those of the comparisons that a gate learns from.

    A row without ratings is then not left out if it holds a comparison.
    """
    compared = [group for group in groups if group.comparisons]
    rated = [g for g in groups if not g.comparisons or _rated(g) & set(lesson.columns)]
    prepared = prepare(rated, encoder, most, split, lesson)
    prepared.groups = groups
    return prepared, prepare(compared, encoder, most, split, PAIRS)


def _rated(group: Group) -> set[str]:
    return {name for answer in group.answers for name in answer.ratings}


def _reasons(prepared: Prepared) -> str:
    """Why nothing is left, the most frequent reasons first."""
    dropped = prepared.dropped
    said = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(3)) or "there were none"
    cut = "; raise data.max_length or set data.truncation" if dropped["longer than max_length"] else ""
    return said + cut


def _refuse_unfitted(kind: Aspects) -> None:
    if kind.gate is not None:
        raise SettingsError("a gate is trained by training.method ridge, not by gradient")
    if kind.verbosity is not None and not kind.penalties:
        raise SettingsError(
            "penalties of verbosity are found by training.method ridge; otherwise give model.kind.penalties"
        )


def hold_master_weights(loaded: store.Loaded) -> None:
    """What is trained in float32, whatever the frozen weights are held in."""
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def computes_in_bf16(loaded: store.Loaded, settings: TrainingSettings) -> bool:
    """Autocast as set, or by default where hardware computes bfloat16 natively and it pays."""
    if settings.bf16 is not None:
        return settings.bf16
    if loaded.model.device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return width_of(loaded) >= 256 and torch.cpu._is_avx512_bf16_supported()


def width_of(loaded: store.Loaded) -> int:
    """Width of the model's states."""
    width: int = loaded.model.inner.config.get_text_config().hidden_size
    return width
