"""The subject of the static checks: a model folder and what it will be trained with, read when asked for.

A part that is not there raises :class:`Missing`, which skips the check that asked for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdtrue.doctor.weights import Weights
from holdtrue.errors import DataError, ModelError

if TYPE_CHECKING:
    from holdtrue.doctor.encoding import Encoded

USES = ("tools", "thinking", "multi-turn")


class Missing(Exception):
    """The subject lacks what a check needs; the message says what, in a few words."""


Turn = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """A training example, and where it stands.

    Attributes:
        messages: the whole conversation, as chat templates take it; its last assistant turn is the target,
            and there is none where it ends with another role (a prompt for RL). Empty for raw text.
        at: ``file:line``.
        rejected: what would stand in the target's place for the answer that lost (pairs only).
        tools: functions offered to the model, as chat templates take them.
        text: raw text, which is learned as it is, without a template.
    """

    messages: tuple[Turn, ...]
    at: str
    rejected: tuple[Turn, ...] | None = None
    tools: Sequence[Any] | None = None
    text: str | None = None

    @property
    def target(self) -> str | None:
        """Text of the last assistant turn, or the raw text; None where nothing is to be learned."""
        if self.text is not None:
            return self.text
        return content_of(self.messages[-1]) if self.messages[-1]["role"] == "assistant" else None


def content_of(turn: Turn) -> str:
    """Text of a turn; parts that are not text are left out."""
    content = turn.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


@dataclass(frozen=True)
class Subject:
    """What is examined.

    Attributes:
        folder: of the model; it may hold only a tokenizer.
        adapter: folder of a LoRA adapter trained or to be trained on it.
        examples: training data, when given.
        settings: of the training run, flat, by the names TRL gives them (``learning_rate``, ``beta``).
        asked: uses of the model beyond single turns (``USES``) that the caller names.
    """

    folder: Path
    adapter: Path | None = None
    examples: Sequence[Example] | None = None
    settings: Mapping[str, Any] | None = None
    asked: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json``."""
        return self._json("config.json")

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """``generation_config.json``."""
        return self._json("generation_config.json")

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded by transformers from local files; no code that comes with it is run."""
        if not any((self.folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            raise Missing("no tokenizer in the folder")
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:
            raise ModelError(f"the tokenizer in {self.folder} cannot be loaded: {error}") from error

    @cached_property
    def weights(self) -> Weights:
        """The model's tensors, read when asked for."""
        if (weights := Weights.of(self.folder)) is None:
            raise Missing("no weights in the folder")
        return weights

    @cached_property
    def adapter_config(self) -> Mapping[str, Any]:
        """``adapter_config.json`` of the adapter."""
        if self.adapter is None:
            raise Missing("no adapter is given")
        return self._json("adapter_config.json", self.adapter)

    @cached_property
    def encoded(self) -> Sequence[Encoded]:
        """The examples as the model will read them."""
        from holdtrue.doctor.encoding import encode

        if not self.examples:
            raise Missing("no data is given")
        return encode(self.examples, self.tokenizer)

    def _json(self, name: str, folder: Path | None = None) -> Mapping[str, Any]:
        path = (folder or self.folder) / name
        if not path.is_file():
            raise Missing(f"no {name}")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{path} holds a {type(value).__name__}, not an object")
        return value
