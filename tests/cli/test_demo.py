"""``holdtrue demo``; all of it is run by ``make demo``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.cli import demo
from holdtrue.errors import Interrupted, ResourceError


def test_an_experiment_that_fails_ends_the_demo_with_what_it_said(
    holdtrue: Callable[..., Any], toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy_run, tmp_path / "demo")
    monkeypatch.setattr(demo, "_WORLDS", {"gold": ("--arms", "frozne")})
    outcome = holdtrue("demo", "--output", tmp_path / "demo")
    assert outcome.code == 6 and "an experiment of the demo ended with 2" in outcome.err
    assert "frozen" in outcome.err


def test_an_experiment_ends_with_the_process_that_began_it_however_that_ended() -> None:
    program = (
        "import sys, time, types\n"
        "from holdtrue.cli import demo, main\n"
        "def command():\n"
        "    print('ready', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "sys.modules['holdtrue.cli.probe'] = types.SimpleNamespace(command=command)\n"
        "main.VERBS['probe'] = ''\n"
        "sys.exit(demo.experiment(['probe']))\n"
    )
    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, program], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None and process.stderr.readline() == "ready\n"
        process.kill()
        assert process.communicate(timeout=20) == (None, "")  # the child held stderr open until it ended


def test_a_demo_that_is_asked_to_stop_asks_its_experiments_and_at_the_second_time_ends_them(
    tmp_path: Path,
) -> None:
    def again() -> bool:
        raise KeyboardInterrupt

    told: list[str] = []
    with pytest.raises(Interrupted):
        demo._both(tmp_path, told.append, lambda: True)
    with pytest.raises(KeyboardInterrupt):
        demo._both(tmp_path, told.append, again)
    assert not told  # they ended before anything was finished


def test_an_experiment_that_fails_ends_the_other_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the first takes some minutes by itself
    monkeypatch.setattr(demo, "_WORLDS", demo._WORLDS | {"habit": ("--arms", "frozne")})
    start = time.monotonic()
    with pytest.raises(ResourceError, match=r"an experiment of the demo ended with 2: .*frozne"):
        demo._both(tmp_path, lambda line: None, lambda: False)
    assert time.monotonic() - start < 120
