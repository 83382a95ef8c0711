"""The subject of the static checks: a model folder and what it will be trained with, read when asked for.

A part that is not there raises :class:`Missing`, which skips the check that asked for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from holdtrue.errors import DataError, ModelError
from holdtrue.records import Messages

USES = ("tools", "thinking", "multi-turn")


class Missing(Exception):
    """The subject lacks what a check needs; the message says what, in a few words."""


@dataclass(frozen=True)
class Example:
    """A training example: what is read (``prompt``), what is to be learned (``target``), and where it stands.

    ``tools`` are the functions that are offered to the model, as chat templates take them.
    """

    messages: tuple[Mapping[str, Any], ...]
    """The whole conversation, as chat templates take it; the last assistant turn is the target."""
    at: str
    rejected: Messages | None = None
    tools: Sequence[Any] | None = None


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

    def _json(self, name: str) -> Mapping[str, Any]:
        path = self.folder / name
        if not path.is_file():
            raise Missing(f"no {name}")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{path} holds a {type(value).__name__}, not an object")
        return value
