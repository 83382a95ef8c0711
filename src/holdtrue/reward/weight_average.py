"""The mean of several reward models' weights, one model again (WARM, Ramé et al., arXiv 2401.12187).

    w = Σ_m w_m / M          backbone and head

It stands for the ensemble at the cost of one model as far as the members lie close together: the same base
and tokens, and heads that began alike. Heads of different seeds point in different directions and average to
a weaker one, so their cosine is measured and said. Adapters are merged first: the mean of products B A is
what their rewards see, the product of the means is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdtrue.errors import DataError, ModelError
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard, weights_hash
from holdtrue.reward.kinds import ComparingKind
from holdtrue.reward.model import RewardModel
from holdtrue.reward.store import Loaded


@dataclass(frozen=True)
class Averaged:
    """The mean, with its card.

    Attributes:
        least_cosine: smallest cosine between two members' heads; with several outputs of all together.
        norms: lengths of the members' heads.
    """

    loaded: Loaded
    card: RewardCard
    least_cosine: float
    norms: tuple[float, ...]


def average(folders: Sequence[Path], *, trust_remote_code: bool = False) -> Averaged:
    """The mean of the models in two or more folders, two of which are in memory at a time.

    Raises:
        ModelError: they do not fit together, or a weight is not finite.
    """
    first = _merged(folders[0], trust_remote_code)
    inner = first.model.inner
    total = _weights(first, folders[0])
    heads = [_head(first)]
    cards = [first.card]
    for folder in folders[1:]:
        other = _merged(folder, trust_remote_code)
        _require_alike(folders[0], first, folder, other)
        for name, weight in _weights(other, folder).items():
            if total[name].is_floating_point():
                total[name] += weight
        heads.append(_head(other))
        cards.append(other.card)
    mean = {name: w / len(folders) if w.is_floating_point() else w for name, w in total.items()}
    inner.load_state_dict(mean)
    cosines = [torch.cosine_similarity(a, b, dim=0).item() for a, b in combinations(heads, 2)]
    card = _card([card for card in cards if card is not None], folders)
    return Averaged(first, card, min(cosines), tuple(head.norm().item() for head in heads))


def _merged(folder: Path, trust: bool) -> Loaded:
    loaded = store.load_trained(folder, trust_remote_code=trust)
    if isinstance(loaded.model.kind, ComparingKind):
        kind = loaded.model.kind.name()
        raise ModelError(f"{folder} compares answers ({kind}): its weights are not averaged; use an ensemble")
    model = loaded.model
    if model.gate is not None:
        raise ModelError(f"{folder} has a gate, which fits its own states alone; use an ensemble")
    if not hasattr(model.classifier, "peft_config"):
        return loaded
    merged = model.classifier.merge_and_unload()
    return replace(loaded, model=RewardModel(merged, model.pad_id, model.kind, model.pool, model.separator))


def _weights(loaded: Loaded, folder: Path) -> dict[str, Tensor]:
    """Copies of the weights."""
    weights = {name: weight.clone() for name, weight in loaded.model.inner.state_dict().items()}
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ModelError(f"{folder} cannot be averaged: {name} is not finite")
    return weights


def _head(loaded: Loaded) -> Tensor:
    weight: Tensor = next(loaded.model.head.parameters()).detach().flatten().clone()
    return weight


def _require_alike(first: Path, one: Loaded, second: Path, other: Loaded) -> None:
    """Refuse to average what has no common meaning.

    Raises:
        ModelError: architecture, kind, tokens, pool, template, reading of plain text or base differ.
    """
    shapes = [{name: tuple(w.shape) for name, w in x.model.inner.state_dict().items()} for x in (one, other)]
    differing = sorted(
        name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
    )
    bases = [x.card.base_model if x.card else "" for x in (one, other)]
    plain = [x.card.plain_text if x.card else "chat" for x in (one, other)]
    reason = None
    if type(one.model.inner) is not type(other.model.inner):
        names = [type(x.model.inner).__name__ for x in (one, other)]
        reason = f"their architectures are {names[0]} and {names[1]}"
    elif one.model.kind != other.model.kind:
        reason = f"their kinds are {one.model.kind!r} and {other.model.kind!r}"
    elif one.model.pool != other.model.pool:
        reason = f"they are pooled by {one.model.pool} and {other.model.pool}"
    elif one.model.pool != "last" and one.template != other.template:
        reason = f"they read {one.template} and {other.template}"
    elif differing:
        seen = [shape.get(differing[0], "missing") for shape in shapes]
        reason = f"{differing[0]} is {seen[0]} in one and {seen[1]} in the other"
    elif one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        reason = "their tokenizers differ"
    elif one.tokenizer.chat_template != other.tokenizer.chat_template:
        reason = "their chat templates differ"
    elif plain[0] != plain[1]:
        reason = f"they take plain text for {plain[0]} and {plain[1]}"
    elif all(bases) and not _same(*bases):
        reason = f"they were trained from different models, {bases[0]} and {bases[1]}"
    if reason is not None:
        raise ModelError(f"weights of {first} and {second} cannot be averaged: {reason}")


def _same(one: str, other: str) -> bool:
    """Whether two names are of one model: equal, or folders with equal weights."""
    if one == other:
        return True
    try:
        return weights_hash(Path(one)) == weights_hash(Path(other))
    except DataError:
        return False


def _card(cards: Sequence[RewardCard], folders: Sequence[Path]) -> RewardCard:
    """What holds of all members; rewards, calibration and lengths are of each alone."""
    shared: dict[str, Any] = {"averaged": {str(folder): weights_hash(folder) for folder in folders}}
    if cards:
        first = cards[0]
        shared |= {
            "base_model": first.base_model,
            "pooled": first.pooled,
            "plain_text": first.plain_text,
            "truncation": first.truncation,
            "max_length": min(card.max_length for card in cards),
            "data": {path: digest for card in cards for path, digest in card.data.items()},
        }
        if all(card.loss == first.loss for card in cards):
            shared["loss"] = first.loss
    return RewardCard(**shared)
