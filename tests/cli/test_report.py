"""``holdtrue report``: the page, made anew from the run's files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_the_page_is_written_anew_and_its_path_printed(holdtrue: Run, toy_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    (run / "report.html").unlink()
    done = holdtrue("report", run, "--json")
    assert (done.code, done.value) == (0, {"report": str(run / "report.html")})
    assert "</html>" in (run / "report.html").read_text()
    assert holdtrue("report", run).out.strip() == str(run / "report.html")


def test_a_run_that_is_not_finished_has_a_page_too(holdtrue: Run, toy_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    for name in ("evaluation.json", "metrics.jsonl"):
        (run / name).unlink()
    assert holdtrue("report", run).code == 0


def test_what_is_no_run_ends_with_3(holdtrue: Run, toy_folder: Path) -> None:
    done = holdtrue("report", toy_folder / "model", "--json")
    assert done.code == 3 and "is not a run directory" in done.error["message"]


def test_no_torch_is_needed_for_it(toy_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(toy_run, tmp_path / "run")
    code = "import sys; sys.modules['torch'] = None; from holdtrue.cli.main import run; sys.exit(run())"
    subprocess.run([sys.executable, "-c", code, "report", str(run)], check=True, capture_output=True)
