"""The reward card: what must be known to get the same number out of a saved model again.

Written beside the weights as ``reward_card.json``; scoring and evaluation follow it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from holdtrue import __version__, kinds
from holdtrue.errors import DataError, SettingsError, unknown
from holdtrue.reward.kinds import RewardKind
from holdtrue.rundir import read_json, write_json
from holdtrue.tokens.conversation import Truncation

NAME = "reward_card.json"
_AGAIN = "if an earlier holdtrue saved it, train or save the model again"
_JSON = {dict: "an object", str: "text", int: "a whole number"}
READS = {
    "last": "last real token, by position or attention mask",
    "cls": "what the encoder's own classifier reads",
    "mean": "mean of all real tokens",
    "max": "largest of all real tokens, dimension by dimension",
}


@dataclass
class RewardCard:
    """Conventions and reference values of a saved reward model.

    Attributes:
        kind: how the reward is produced, a :class:`~holdtrue.reward.kinds.RewardKind` with its fields.
        base_model: what it was trained from.
        template: name (``own``, ``file`` or ``plain``) and SHA-256 of the chat template; for encoders the
            name is what they are given, ``text`` or ``pair``.
        pool: what the head reads (``last``, ``cls``, ``mean``, ``max``).
        pooled: that in words (``policy``), and for decoders the token most conversations end with.
        plain_text: what plain strings are taken for, ``chat`` turns or ``raw`` text with EOS appended.
        max_length, truncation: as trained.
        loss: the loss and its hyperparameters.
        calibration: temperature T fitted on validation pairs, P(first preferred) = σ(gap / T).
        reward: mean, std and number of the rewards of a reference set (validation answers).
        lengths: quantiles of the training conversations' lengths in tokens.
        data: SHA-256 of every training file.
        averaged: folders and weight hashes of the models whose weights' mean it is, where it is one.
        weights_sha256: hash of the weights, the model's identity in scores and reports.
    """

    kind: dict[str, Any] = field(default_factory=lambda: {"kind": "scalar"})
    base_model: str = ""
    template: dict[str, str] = field(default_factory=dict)
    pool: str = "last"
    pooled: dict[str, Any] = field(default_factory=dict)
    plain_text: Literal["chat", "raw"] = "chat"
    max_length: int = 0
    truncation: str = "drop"
    loss: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    reward: dict[str, float] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    averaged: dict[str, str] = field(default_factory=dict)
    weights_sha256: str = ""
    holdtrue: str = __version__

    @property
    def made_by(self) -> RewardKind:
        """The kind itself.

        Raises:
            SettingsError: this version does not know it.
        """
        found: RewardKind = kinds.choose("holdtrue.reward.kinds", self.kind, "scalar")
        return found

    def write(self, folder: Path) -> None:
        """Write ``reward_card.json`` into a model folder."""
        write_json(folder / NAME, asdict(self))


def read_card(folder: Path) -> RewardCard | None:
    """The card of a model folder, or ``None`` for a model that was not saved by holdtrue.

    Raises:
        DataError: the card is not one this version can read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a {type(values).__name__}, expected a reward card")
    known = asdict(RewardCard())
    for name, value in values.items():
        if name not in known:
            raise DataError(f"{unknown(f'field of {path}', name, known)}; {_AGAIN}")
        if type(value) is not type(known[name]):
            expected = f"expected {_JSON[type(known[name])]}; {_AGAIN}"
            raise DataError(f"{path}: {name} is {value!r}, {expected}")
    if values.get("truncation", "drop") not in get_args(Truncation) or values.get("max_length", 0) < 0:
        raise DataError(f"{path}: max_length or truncation is not one that training can have had")
    if values.get("pool", "last") not in READS:
        raise DataError(f"{path}: pool is {values['pool']!r}, expected one of {', '.join(READS)}")
    card = RewardCard(**values)
    try:
        card.made_by  # noqa: B018
    except SettingsError as error:
        raise DataError(f"{path}: {error}; {_AGAIN}") from error
    return card


def read_token(last: Sequence[int], tokenizer: Any) -> dict[str, Any]:
    """The token most conversations end with, and their share; ``last`` holds each one's last id."""
    common, count = Counter(last).most_common(1)[0]
    return {
        "policy": READS["last"],
        "id": common,
        "text": tokenizer.convert_ids_to_tokens(common),
        "share": round(count / len(last), 4),
    }


def text_hash(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def weights_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's safetensors files, those in folders of it included.

    Raises:
        DataError: there are none.
    """
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no .safetensors file; other weight formats are not read")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(folder).as_posix().encode())
        with open(file, "rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
