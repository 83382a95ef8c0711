"""Scoring data with a model named on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdtrue.rundir import find_model
from holdtrue.settings import DataSettings

if TYPE_CHECKING:
    from holdtrue.reward.scorer import RewardScorer


@dataclass(frozen=True)
class Judge:
    """A model ready to score, and how data is read for it: plain text as when the model was trained."""

    scorer: RewardScorer
    data: DataSettings


def load(path: Path, data: DataSettings, trust_remote_code: bool) -> Judge:
    """The model behind a RUN or MODEL argument."""
    from holdtrue.reward import store
    from holdtrue.reward.scorer import RewardScorer
    from holdtrue.training.distributed import default_device

    loaded = store.load_trained(
        find_model(path), device=default_device(), trust_remote_code=trust_remote_code
    )
    if loaded.card is not None and "plain_text" not in data.model_fields_set:
        changes: dict[str, Any] = {"plain_text": loaded.card.plain_text}
        data = data.model_copy(update=changes)
    return Judge(RewardScorer(loaded), data)
