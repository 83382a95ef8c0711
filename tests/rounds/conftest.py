"""Two rounds on the toy model, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import optimising
import toy
from holdtrue.rounds.settings import RoundsSettings, build

RATER = """
import numpy as np
def kinder(prompts, firsts, seconds):
    gaps = [a.split().count("kind") - b.split().count("kind") for a, b in zip(firsts, seconds)]
    return [np.float32(0.5) if gap == 0 else np.int64(gap > 0) for gap in gaps]
def silent(prompts, firsts, seconds):
    return [None for _ in firsts]
def short(prompts, firsts, seconds):
    return []
def loud(prompts, firsts, seconds):
    return [2 for _ in firsts]
def broken(prompts, firsts, seconds):
    raise KeyError("no rater")
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, its prompts, pairs and raters."""
    folder = optimising.write(tmp_path_factory.mktemp("rounds"))
    toy.write_pairs(folder / "pairs.jsonl", 40)
    (folder / "rater.py").write_text(RATER, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def values(place: Path) -> Callable[..., dict[str, Any]]:
    """Plain settings of rounds; changes by section."""

    def make(**changes: Any) -> dict[str, Any]:
        made: dict[str, Any] = {
            "reward": {
                "model": {"path": str(place / "policy")},
                "data": {"train": [str(place / "pairs.jsonl")]},
                "training": {"max_steps": 2},
            },
            "rl": {
                "policy": {"path": str(place / "policy")},
                "data": {"prompts": [str(place / "prompts.jsonl")]},
                "decoding": {"max_new_tokens": 8},
                "guard": {"on_hit": "none", "calibration": 64},
                "training": {**optimising.TRAINING, "max_steps": 2},
            },
            "rounds": 2,
            "answers": {"prompts": 6, "group": 3},
            "labels": {"function": f"{place / 'rater.py'}:kinder", "accuracy": 6, "budget": 4},
        }
        for section, value in changes.items():
            old = made.get(section)
            made[section] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        return made

    return make


@pytest.fixture(scope="session")
def settings(values: Callable[..., dict[str, Any]]) -> Callable[..., RoundsSettings]:
    """The same as settings."""
    return lambda **changes: build(values(**changes))
