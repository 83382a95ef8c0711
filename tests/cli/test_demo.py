"""``holdtrue demo``; all of it is run by ``make demo``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.cli import demo


def test_an_experiment_that_fails_ends_the_demo_with_what_it_said(
    holdtrue: Callable[..., Any], toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy_run, tmp_path / "demo")
    monkeypatch.setattr(demo, "_WORLDS", {"gold": ("--arms", "frozne")})
    outcome = holdtrue("demo", "--output", tmp_path / "demo")
    assert outcome.code == 6 and "an experiment of the demo ended with 2" in outcome.err
    assert "frozen" in outcome.err
