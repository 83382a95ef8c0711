"""``holdtrue report``: a run directory as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdtrue.cli import frame
from holdtrue.rundir import RunDir


def command(run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]) -> frame.Result:
    """Write a run's report, one self-contained HTML file that opens without a network."""
    from holdtrue.report import write_report

    path = write_report(RunDir.open(run))
    return frame.Result({"report": str(path)}, str(path))
