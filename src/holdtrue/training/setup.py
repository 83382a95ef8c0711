"""What a run is made of before its first step: the model ready to train and the trees it trains on.

Training and its plan set up the same way, so what a plan says is what a run does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holdtrue.data.splits import read_splits
from holdtrue.errors import DataError
from holdtrue.losses import require_compatible
from holdtrue.reward import store
from holdtrue.reward.kinds import ComparingKind
from holdtrue.settings import Settings
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.joint import JointEncoder
from holdtrue.tokens.tree import Lesson
from holdtrue.training.preparation import Prepared, prepare


@dataclass
class Setup:
    """Model, encoder and both splits of a run.

    Attributes:
        counts: per split what was read, kept, dropped and cut, as it stands in ``run.json``.
    """

    settings: Settings
    loaded: store.Loaded
    encoder: Encoder | JointEncoder
    train: Prepared
    eval: Prepared
    counts: dict[str, Any]

    @property
    def learning_rate(self) -> float:
        """Peak rate: as set, or 0.04 / width, ten times that for adapters."""
        if self.settings.training.learning_rate is not None:
            return self.settings.training.learning_rate
        rate = 0.04 / _width(self.loaded)
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
            "device": str(model.device),
            "learning_rate": self.learning_rate,
        }


def set_up(
    settings: Settings, device: str, *, rejected: Path | None = None, trust_remote_code: bool = False
) -> Setup:
    """Read and encode the data, load the model and make it ready: precision, master weights, recomputation.

    ``rejected`` is where unreadable rows are listed.

    Raises:
        DataError: no usable comparison is left. ModelError, SettingsError: as in loading.
    """
    kind, loss = store.chosen_kind(settings.model), settings.loss
    require_compatible(kind, loss)
    splits = read_splits(settings.data, rejected)
    loaded = store.load(
        settings.model, seed=settings.seed, device=device, trust_remote_code=trust_remote_code
    )
    if "logprobs" in loss.reads:
        store.keep_language_head(loaded, trust_remote_code=trust_remote_code)
    lesson = Lesson(loss.unit, loss.target, kind.ratings)
    encoder = loaded.encoder(settings.data.max_length, settings.data.truncation)
    most = settings.data.max_answers_per_tree
    both = isinstance(kind, ComparingKind) and kind.orders == "both"
    train = prepare(splits.train, encoder, most, "train", lesson, both)
    held_out = prepare(splits.eval, encoder, most, "eval", lesson)
    if not train.trees:
        reasons = ", ".join(f"{count} {reason}" for reason, count in train.dropped.most_common(3))
        what = "labels" if loss.target == "accepted" else loss.target
        raise DataError(f"no usable {what} left: {reasons or 'there were none'}")
    loaded.model.bf16 = _bf16(loaded, settings)
    hold_master_weights(loaded)
    if settings.training.gradient_checkpointing:
        loaded.model.recompute_activations()
    counts = {"train": train.summary(), "eval": held_out.summary()}
    for name, report in splits.reports.items():
        read = report.as_json()
        read["repaired"] |= counts[name]["repaired"]
        counts[name] |= read
    for name, changes in splits.transformed.items():
        counts[name]["transformed"] = changes
    return Setup(settings, loaded, encoder, train, held_out, counts)


def hold_master_weights(loaded: store.Loaded) -> None:
    """What is trained in float32, whatever the frozen weights are held in."""
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _bf16(loaded: store.Loaded, settings: Settings) -> bool:
    """Autocast as set, or by default where hardware computes bfloat16 natively and it pays."""
    if settings.training.bf16 is not None:
        return settings.training.bf16
    if loaded.model.device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return _width(loaded) >= 256 and torch.cpu._is_avx512_bf16_supported()


def _width(loaded: store.Loaded) -> int:
    width: int = loaded.model.inner.config.get_text_config().hidden_size
    return width
