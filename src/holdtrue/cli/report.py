"""``holdtrue report``: a run directory as one HTML page."""

from __future__ import annotations

from holdtrue.cli import frame
from holdtrue.rundir import RunDir


def command(run: frame.Run) -> frame.Result:
    """Write a run's report, one self-contained HTML file that opens without a network."""
    from holdtrue.report import write_report

    path = write_report(RunDir.open(run))
    return frame.Result({"report": str(path)}, str(path))
