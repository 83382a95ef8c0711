"""Settings of runs that take a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.settings import Settings, build, put


@pytest.fixture
def settings_of(toy_folder: Path) -> Callable[..., Settings]:
    """Settings on the toy data with some set by dotted key."""

    def make(changes: dict[str, Any] | None = None, **sweep: Any) -> Settings:
        values: dict[str, Any] = {
            "data": {"train": [str(toy_folder / "train.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]},
            "model": {"path": str(toy_folder / "model")},
            "training": {"max_steps": 3, "eval_steps": 1, "save_steps": 1},
        }
        if sweep:
            values["sweep"] = sweep
        for key, value in (changes or {}).items():
            put(values, key, value)
        return build(values)

    return make
