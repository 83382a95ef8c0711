"""What surrounds every attempt at a run: it is claimed, its data are the same, its end is written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from holdtrue.errors import DataError, HoldtrueError, Interrupted, ResourceError, SettingsError
from holdtrue.rundir import RunDir, disk_errors

if TYPE_CHECKING:
    from holdtrue.training.distributed import World
    from holdtrue.training.sinks import Sinks


@contextmanager
def claimed(run: RunDir, world: World) -> Iterator[None]:
    """The run for this process and its siblings alone, and ``run.json`` saying that it is at work."""
    with run.claim() if world.main else nullcontext():
        if world.main:
            with disk_errors(run.path):
                run.update_info(status="running", exit_code=None, error=None)
        world.wait()
        yield


@contextmanager
def recorded(run: RunDir) -> Iterator[None]:
    """Record in ``run.json`` how the run ended; of several processes the first to say so is believed.

    When one fails, the others only see that the connection to it broke.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            error = ResourceError("out of memory; lower training.max_tokens_per_pass or data.max_length")
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        code = error.exit_code if isinstance(error, HoldtrueError) else 5 if stopped else 1
        with disk_errors(run.path):
            if run.info().get("status") == "running":
                status = "interrupted" if stopped else "failed"
                run.update_info(status=status, exit_code=code, error=str(error) or type(error).__name__)
        if isinstance(error, ResourceError):
            raise error from None
        raise


def refuse_changed_data(run: RunDir, counts: dict[str, Any]) -> None:
    """Refuse files that are not those the run began with.

    Raises:
        DataError: says which.
    """
    before = run.info().get("data")
    if before is None:
        return
    for split, now_counts in counts.items():
        then, read = (
            {file["path"]: file["sha256"] for file in part.get("files", [])}
            for part in (before[split], now_counts)
        )
        for path in then.keys() | read.keys():
            if then.get(path) != read.get(path):
                what = "changed" if path in then and path in read else "came" if path in read else "went"
                raise DataError(f"{path} {what} since this run began; start a new run to train on it")


def refuse_other_processes(run: RunDir, processes: int) -> None:
    """Refuse another number of processes than the run began with; for batch sizes per device.

    Raises:
        SettingsError: says how many there were.
    """
    before = run.info().get("processes", processes)
    if before != processes:
        raise SettingsError(
            f"the run was started with {before} processes and a batch size per device; {processes} "
            f"would make other steps; continue it with {before}"
        )


def trackers(run: RunDir, names: Iterable[str], settings: Mapping[str, Any], world: World) -> Sinks:
    """Trackers of a run that goes on from its newest checkpoint; rows written after it are taken out.

    Only the main process reads, rewinds and tracks.
    """
    from holdtrue.training import checkpoint, sinks

    if not world.main:
        return sinks.Sinks([], run, settings)
    found = checkpoint.newest(run)
    sinks.rewind(run, found[0] if found else 0)
    return sinks.Sinks(names, run, settings, resumed_at=found[0] if found else None)
