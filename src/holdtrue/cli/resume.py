"""``holdtrue resume``: continue a run from its newest verified checkpoint."""

from __future__ import annotations

from holdtrue.cli import frame, rl, rounds, running
from holdtrue.errors import SettingsError
from holdtrue.rundir import RunDir


def command(
    run: frame.Run,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result | None:
    """Continue an interrupted run from its last checkpoint, with the settings it was started with.

    The finished run equals one that was never interrupted. A run that is already finished is measured
    and saved again from its last checkpoint.
    """
    found = RunDir.open(run)
    if found.info().get("status") == "finished":
        frame.console(stderr=True).print(
            f"{run} is finished; what came of it is made again from its last checkpoint"
        )
    if found.settings().get("task") == "rl":
        return rl.carry(found, trust_remote_code)
    if found.settings().get("task") == "rounds":
        return rounds.carry(found, trust_remote_code)
    if found.settings().get("task") == "goldworld":
        raise SettingsError(f"a gold world goes on with: holdtrue goldworld --output {run}")
    return running.carry(found, trust_remote_code)
