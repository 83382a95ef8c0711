"""What a LoRA adapter trains of the embedding and the head."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from holdtrue.doctor.subject import Subject
from holdtrue.doctor.weights import EMBEDDINGS, HEADS


@dataclass(frozen=True)
class Training:
    """Which rows of the two matrices an adapter trains; None means all of them."""

    embedding: Collection[int] | None
    head: Collection[int] | None

    @classmethod
    def of(cls, config: Mapping[str, Any], tied: bool) -> Training:
        """From PEFT's ``modules_to_save``, ``target_modules`` and ``trainable_token_indices``."""
        embedding, head = names("embedding"), names("head")
        modules = module_names(config)
        indices = config.get("trainable_token_indices") or {}
        if not isinstance(indices, Mapping):
            indices = {"embed_tokens": indices}
        rows = {matrix: _rows_of(indices, endings) for matrix, endings in (("e", embedding), ("h", head))}
        of_embedding = None if modules & embedding else rows["e"]
        of_head = None if modules & head else rows["h"]
        if tied:  # one matrix with two names
            of_embedding = None if of_embedding is None or of_head is None else of_embedding | of_head
            of_head = of_embedding
        return cls(of_embedding, of_head)

    def lacks(self, ids: Collection[int]) -> dict[str, list[int]]:
        """Of the ids, those whose row stays frozen, by matrix."""
        parts = {"embedding": self.embedding, "head": self.head}
        missing = {name: sorted(set(ids) - set(rows)) for name, rows in parts.items() if rows is not None}
        return {name: rows for name, rows in missing.items() if rows}


def names(matrix: str) -> set[str]:
    """Module names of the embedding or the head: ``embed_tokens``, ``lm_head`` ..."""
    return {ending.removesuffix(".weight") for ending in (EMBEDDINGS if matrix == "embedding" else HEADS)}


def module_names(config: Mapping[str, Any]) -> set[str]:
    """Last parts of the names of all modules an adapter saves or targets."""
    found: set[str] = set()
    for key in ("modules_to_save", "target_modules"):
        value = config.get(key) or []
        found |= {str(name).rpartition(".")[2] for name in ([value] if isinstance(value, str) else value)}
    return found


def module_of(subject: Subject, matrix: str) -> str:
    """Name of the module of the embedding or the head, as PEFT's settings want it."""
    tensor = subject.weights.embedding if matrix == "embedding" else subject.weights.head
    return tensor.name.removesuffix(".weight").rpartition(".")[2] if tensor else ""


def _rows_of(indices: Mapping[str, Any], endings: Collection[str]) -> set[int]:
    return {
        int(row)
        for name, rows in indices.items()
        if name.rpartition(".")[2] in endings and isinstance(rows, list)
        for row in rows
    }
