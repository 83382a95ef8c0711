"""The advantages and the surrogate that train language models solve CartPole; the docs' REINFORCE learns."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("gymnasium", reason="needs pip install gymnasium")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cartpole", ROOT / "recipes" / "cartpole.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_solves_cartpole(recipe: ModuleType, seed: int) -> None:
    policy, steps = recipe.train(seed)
    assert steps < 30_000
    assert recipe.evaluate(policy, 2000 + seed) >= 195  # what gymnasium calls solved; a random policy has 22


def test_the_reinforce_of_the_docs_learns() -> None:
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "cartpole.md").read_text("utf-8"), re.DOTALL
    )
    names: dict[str, Any] = {"EPISODES": 80, "SEED": 0}
    exec(compile(code, "docs/cartpole.md", "exec"), names)
    lengths = names["lengths"]
    assert len(lengths) == 80
    assert sum(lengths[-20:]) > 2 * sum(lengths[:20])
