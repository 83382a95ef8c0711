"""``holdtrue train``: preference pairs in, a run directory with a measured reward model out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from holdtrue import job
from holdtrue.cli import frame, running
from holdtrue.errors import SettingsError
from holdtrue.rundir import RunDir


def command(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA|SETTINGS.yaml]...", help="Preference pairs, or settings."),
    ] = None,
    model: frame.Model = None,
    output: frame.Output = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="PATH", help="Validation pairs (data.eval). Repeatable."),
    ] = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    overrides: frame.Overrides = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, metavar="N", help="Processes on this machine.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, as plan does.")
    ] = False,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result | None:
    """Train a reward model on preference pairs.

    Without data and model the embedded support-desk world is used. The run directory holds everything:
    settings, metrics, checkpoints, the model and report.html. Interrupted runs go on with
    "holdtrue resume RUN".
    """
    settings = frame.settings_from(
        data or [],
        model=model,
        format=format,
        columns=columns,
        flags={"data.eval": eval_data, "training.processes": processes},
        overrides=overrides,
    )
    if dry_run:
        from holdtrue.cli.plan import plan_result

        return plan_result(settings, trust_remote_code)
    if output is None:
        raise SettingsError("say where the run goes: --output RUN")
    return running.carry(create(lambda: job.start(settings, output), output), trust_remote_code)


def create(start: Callable[[], RunDir], output: Path) -> RunDir:
    """The run directory; under torchrun the first process makes it and the others wait for it."""
    launch = "-".join(os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_PORT"))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        launch += f"-{os.getppid()}"  # torchrun itself, so that a run of before is not taken for this one
    if int(os.environ.get("RANK", "0")) == 0:
        run = start()
        run.update_info(launch=launch)
        return run
    for _ in range(600):
        run = RunDir(output)
        if run.info().get("launch") == launch:
            return run
        time.sleep(0.1)
    raise SettingsError(f"the first process did not create {output} within 60 s")
