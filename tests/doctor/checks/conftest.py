"""Folders that the tests of checks write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doctor_folders import EMBEDDING, HEAD, bfloat16, matrix, write_json, write_tensors


@pytest.fixture
def tokenizer(tmp_path: Path, byte_tokenizer: Callable[..., Any]) -> Callable[..., Path]:
    """Saves the byte tokenizer, with changes, and returns the folder."""

    def make(**changes: Any) -> Path:
        byte_tokenizer(**changes).save_pretrained(tmp_path)
        return tmp_path

    return make


@pytest.fixture
def folder(tmp_path: Path, byte_tokenizer: Callable[..., Any]) -> Callable[..., Path]:
    """Writes a tiny Qwen2: 259 tokens, of which 0 begins and 1 ends a turn and 2 is padding."""

    def make(head: bool = True, rows: int = 259, change: Any = None, **config: Any) -> Path:
        path = tmp_path / "model"
        path.mkdir(exist_ok=True)
        byte_tokenizer().save_pretrained(path)
        values = {EMBEDDING: matrix(rows), "model.norm.weight": np.ones(32, np.float32)}
        values |= {HEAD: matrix(rows, seed=1)} if head else {}
        if change:
            change(values)
        write_tensors(path / "model.safetensors", {name: bfloat16(array) for name, array in values.items()})
        write_json(path / "config.json", {"model_type": "qwen2", "tie_word_embeddings": not head, **config})
        return path

    return make
