"""``holdtrue report``: a run directory as one HTML page."""

from __future__ import annotations

from holdtrue.cli import frame
from holdtrue.errors import SettingsError
from holdtrue.rundir import RunDir


def command(run: frame.Run) -> frame.Result:
    """Write a run's report, one self-contained HTML file that opens without a network."""
    from holdtrue.report import write_report
    from holdtrue.report.rounds import write_rounds_report

    opened = RunDir.open(run)
    if opened.settings().get("task") == "rounds":
        path = write_rounds_report(opened)
        return frame.Result({"report": str(path)}, str(path))
    if opened.settings().get("task") == "goldworld":
        raise SettingsError(f"holdtrue goldworld --output {run} writes the report of a gold world")
    if opened.settings().get("task") is not None:
        raise SettingsError(f"{run} fine-tunes a policy; its curves are in {opened.metrics_file}")
    path = write_report(opened)
    return frame.Result({"report": str(path)}, str(path))
