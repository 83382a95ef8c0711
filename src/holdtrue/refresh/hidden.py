"""States that a reward model's head reads, answer by answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdtrue.errors import SettingsError
from holdtrue.records import Group
from holdtrue.reward.model import given
from holdtrue.reward.scorer import RewardScorer, plant
from holdtrue.tokens.conversation import Encoder


@torch.inference_mode()
def states(scorer: Any, groups: Sequence[Group]) -> list[NDArray[np.float32]]:
    """(K, D) pooled states of each group's answers; rows of NaN where an answer cannot be read.

    Raises:
        SettingsError: the scorer is not a single model that scores one answer at a time.
    """
    if not isinstance(scorer, RewardScorer) or not isinstance(scorer.encoder, Encoder):
        raise SettingsError("states are those of one reward model that scores single answers")
    model = scorer.loaded.model
    if "hidden" not in model.kind.gives:
        raise SettingsError(f"a model of kind {model.kind.name()} does not give states")
    encoded = list(scorer.encoder.encode(groups))
    trees, owners = plant(groups, encoded, scorer.max_tokens_per_pass)
    found: dict[Any, NDArray[np.float32]] = {}
    for batch in model.pack(trees, scorer.max_tokens_per_pass):
        rows = given(model(model.batch([trees[i] for i in batch])).hidden).float().cpu().numpy()
        found.update(zip((owner for i in batch for owner in owners[i]), rows, strict=True))
    missing = np.full(next(iter(found.values())).shape if found else (0,), np.nan, dtype=np.float32)
    return [
        np.stack([missing if ids is None else found[group.prompt_key, ids.tobytes()] for ids in item.ids])
        for group, item in zip(groups, encoded, strict=True)
    ]
