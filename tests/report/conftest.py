"""Run directories as holdtrue leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from holdtrue.rundir import RunDir, append_jsonl, write_json
from holdtrue.settings import Settings
from reporting import INFO, make_metrics, make_result


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[], RunDir]:
    """A run directory in which nothing has happened yet."""
    return lambda: RunDir.create(tmp_path / "run", Settings().dump())


@pytest.fixture
def finished_run(new_run: Callable[[], RunDir]) -> RunDir:
    """A run that trained, left rows out, and was evaluated on two data sets."""
    run = new_run()
    write_json(run.info_file, INFO)
    append_jsonl(run.metrics_file, make_metrics())
    append_jsonl(
        run.rejected_file,
        [
            {"file": "data/pairs.jsonl", "line": n, "offset": 9 * n, "reason": "not valid JSON", "text": "{"}
            for n in range(1, 12)
        ],
    )
    append_jsonl(
        run.dropped_file,
        [
            {
                "file": "pairs.jsonl",
                "line": n,
                "split": "train",
                "reason": "longer than max_length",
                "detail": "601",
            }
            for n in range(1, 6)
        ],
    )
    results = [make_result(0, name="held out"), make_result(5, 120, name="other.jsonl")]
    write_json(run.evaluation_file, {"model_hash": INFO["model_hash"], "results": results})
    return run
