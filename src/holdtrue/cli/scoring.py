"""Scoring data with a model named on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdtrue.rundir import find_model
from holdtrue.settings import DataSettings

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer


@dataclass(frozen=True)
class Judge:
    """A model ready to score, and how data is read for it: plain text as when the model was trained.

    ``identity`` is the hash of the weights.
    """

    scorer: StreamingScorer
    data: DataSettings
    identity: str


def load(path: Path, data: DataSettings, trust_remote_code: bool, bf16: bool = False) -> Judge:
    """What scores behind a RUN or MODEL argument: a model, an ensemble, a policy against its reference."""
    from holdtrue.reward.folders import open_scorer
    from holdtrue.training.distributed import default_device

    opened = open_scorer(
        find_model(path), device=default_device(), bf16=bf16, trust_remote_code=trust_remote_code
    )
    if "plain_text" not in data.model_fields_set:
        changes: dict[str, Any] = {"plain_text": opened.plain_text}
        data = data.model_copy(update=changes)
    return Judge(opened.scorer, data, opened.identity)
