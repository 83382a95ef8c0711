"""Pools: from the states of all tokens to the one state the head reads.

    last   the right-most real token's, for decoders
    cls    whatever transformers' classifier of an encoder gives its last linear layer
    mean   Σ mask·h / Σ mask        max   largest h where mask is 1        (float32)

Of an encoder-decoder, ``cls`` runs both halves and ``mean`` and ``max`` the encoder alone.

Sentence encoders such as MiniLM are trained by their mean; their first token's state never was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
)

from holdtrue.errors import ModelError
from holdtrue.rundir import read_json

Pool = Literal["last", "cls", "mean", "max"]


def is_encoder(config: Any) -> bool:
    """Whether a text is read in both directions, so that no prompt can be shared between answers."""
    return _has_both(config) or type(config) in MODEL_FOR_MASKED_LM_MAPPING


def _has_both(config: Any) -> bool:
    # the encoder of a T5 saved without its decoder says that it is no encoder-decoder
    return config.is_encoder_decoder or type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING


def choose(wanted: str, config: Any, folder: str, saved: str | None) -> Pool:
    """The pool of a model: as wanted, as saved, as sentence-transformers wrote down, or the family's.

    Raises:
        ModelError: the model cannot be pooled so.
    """
    encoder = is_encoder(config)
    found = saved if wanted == "auto" else wanted
    pool: Any = found or ((_written_down(Path(folder)) or _usual(config)) if encoder else "last")
    family = f"{folder} ({config.model_type})"
    if not encoder and pool != "last":
        raise ModelError(
            f"{family} is a decoder: it is read at its last token (model.pool: last), not by {pool}"
        )
    if encoder and pool == "last":
        raise ModelError(f"{family} is an encoder: model.pool is cls, mean or max, not last")
    if _has_both(config) and pool != "cls" and not has_own_encoder(config):
        raise ModelError(
            f"{family} is an encoder-decoder without an encoder of its own: model.pool is cls, not {pool}"
        )
    return pool  # type: ignore[no-any-return]


def has_own_encoder(config: Any) -> bool:
    """Whether transformers has the encoder of this encoder-decoder as a model of its own (T5)."""
    return _has_both(config) and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING


def _usual(config: Any) -> Pool:
    """``cls``; ``mean`` for the encoder of an encoder-decoder, saved without the decoder."""
    alone = any(name.endswith("EncoderModel") for name in config.architectures or [])
    return "mean" if alone and has_own_encoder(config) else "cls"


def _written_down(folder: Path) -> str | None:
    """The pool in a sentence-transformers folder (``modules.json`` and its pooling module), if it is one."""
    if not (folder / "modules.json").is_file():
        return None
    modules = read_json(folder / "modules.json")
    paths = [str(module["path"]) for module in modules if str(module["type"]).endswith(".Pooling")]
    if not paths:
        return None
    config = read_json(folder / paths[0] / "config.json")
    chosen = [
        key.removeprefix("pooling_mode_") for key, on in config.items() if on is True and "_mode_" in key
    ]
    modes = [mode.removesuffix("_tokens").removesuffix("_token") for mode in chosen]
    modes = modes or [config["pooling_mode"]]
    if len(modes) != 1 or modes[0] not in ("cls", "mean", "max"):
        raise ModelError(
            f"{folder} is pooled by {' and '.join(map(str, modes))}; set model.pool: cls, mean or max"
        )
    return str(modes[0])


def last_real_token(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """(N, L, D) and (N, L) to (N, D): the state at the right-most 1 of each mask row."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * positions).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def answer_tokens(hidden: Tensor, attention_mask: Tensor, length: Tensor) -> Tensor:
    """(N, L, D), (N, L) and (N,) to (Σ length, D): the last ``length`` real tokens of each row, in order."""
    left = attention_mask.flip(1).cumsum(1).flip(1)  # real tokens from here on
    inside: Tensor = (attention_mask > 0) & (left <= length[:, None])
    return hidden[inside]


def pool_packed(pool: Pool, hidden: Tensor, sizes: list[int]) -> Tensor:
    """(1, Σ sizes, D) to (N, D) float32: ``mean`` or ``max`` over each of the sequences in the row."""
    parts = torch.split(hidden[0].float(), sizes)
    return torch.stack([part.mean(0) if pool == "mean" else part.amax(0) for part in parts])


def mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """(N, L, D) and (N, L) to (N, D) float32: the mean over the 1s of each mask row."""
    weights = attention_mask[:, :, None].float()
    return (hidden.float() * weights).sum(1) / weights.sum(1)


def largest(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """(N, L, D) and (N, L) to (N, D) float32: the largest over the 1s of each mask row."""
    return hidden.float().masked_fill(attention_mask[:, :, None] == 0, -torch.inf).amax(1)


POOLS = {"last": last_real_token, "mean": mean, "max": largest}


def classifier_input(classifier: Any, head: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """(N, D) float32: what the classifier's own forward gives its last linear layer.

    Raises:
        ModelError: it gives it every token and pools afterwards (EuroBERT).
    """
    seen: list[Tensor] = []

    def take(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(args[0].float())
        return (seen[-1],)  # the head's weights are float32, whatever comes before it

    handle = head.register_forward_pre_hook(take)
    try:
        classifier(**inputs)
    finally:
        handle.remove()
    if seen[-1].ndim != 2:
        raise ModelError(
            f"{type(classifier).__name__} pools behind its last layer; set model.pool: mean or max"
        )
    return seen[-1]


def head_name(classifier: Any) -> str:
    """Where a classifier has its last linear layer: ``score``, ``classifier``, ``classifier.out_proj``.

    Raises:
        ModelError: it has none.
    """
    if not is_encoder(classifier.config):
        if "score" in dict(classifier.named_children()):
            return "score"
        raise ModelError(f"{type(classifier).__name__} is neither an encoder nor has a linear head 'score'")
    found: list[str] = [
        name
        for name, module in classifier.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == classifier.config.num_labels
        and not name.startswith(f"{classifier.base_model_prefix}.")
        and "original_module" not in name  # what an adapter keeps of the head it began with
    ]
    if not found:
        raise ModelError(f"{type(classifier).__name__} has no linear head")
    return found[-1]


def outside_backbone(classifier: Any, fresh: Sequence[str]) -> list[str]:
    """Modules trained and saved in full beside adapters: all behind the backbone, and what is fresh in it."""
    own = classifier.base_model_prefix
    behind = [
        name
        for name, module in classifier.named_children()
        if name != own and next(module.parameters(), None) is not None
    ]
    return behind + [name for name in fresh if name.partition(".")[0] == own]


def first_position(classifier: Any) -> int:
    """Position of a sequence's first token: 0 but for encoders that count on from their padding (RoBERTa)."""
    table = _counted_from_padding(classifier)
    return 0 if table is None else int(table.padding_idx) + 1


def positions(classifier: Any) -> int | None:
    """Most tokens of an encoder that counts positions on from its padding token, else ``None``."""
    table = _counted_from_padding(classifier)
    return None if table is None else int(table.num_embeddings - table.padding_idx - 1)


def _counted_from_padding(classifier: Any) -> Any:
    for name, module in classifier.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module
    return None
