"""All seeds and arms of a gold world, in parallel processes, and what they say together.

settings.yaml        what was fixed before
seed-NN/             a seed: world, trunk and arms (:mod:`holdtrue.experiments.goldworld.seed`)
goldworld.json       the summary; report.html shows it
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import Any

from holdtrue.errors import Interrupted, ResourceError, SettingsError
from holdtrue.experiments.goldworld.seed import rounds, run_seed
from holdtrue.experiments.goldworld.settings import GoldworldSettings, build
from holdtrue.experiments.goldworld.summary import summarise
from holdtrue.experiments.runs import workplace
from holdtrue.report.goldworld import write_goldworld_report
from holdtrue.rundir import disk_errors, write_json

SETTINGS_FILE = "settings.yaml"
Row = dict[str, Any]
_GO_ON = "stopped; what is finished is kept, and the same command goes on"
_MAY_GROW = {"arms", "own_arms", "seeds"}
"""Settings that may grow: what is finished stays valid."""


def goldworld(
    settings: GoldworldSettings,
    folder: Path,
    *,
    processes: int = 1,
    tell: Callable[[Row], None] = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
) -> Row:
    """Run what is not finished yet, and write the summary and its page.

    Args:
        processes: seeds that are run side by side, each on one thread.
        tell: gets ``{seed, arm, part}`` as parts begin and end.

    Raises:
        SettingsError: the folder holds another experiment.
        Interrupted: ``stop`` asked for it; the same command goes on.
    """
    _require_runnable(settings)
    with workplace(folder, SETTINGS_FILE, settings.dump(), _MAY_GROW):
        for _ in _carried(settings, folder, processes, tell, stop):
            _publish(settings, folder)
        return _publish(settings, folder)


def _require_runnable(settings: GoldworldSettings) -> None:
    """Refuse settings of rounds that cannot be built, before any seed is run."""
    from holdtrue.rounds.settings import build

    for arm in () if settings.habit else settings.arms:
        made = build(rounds(settings, Path("world"), 0, arm))
        if "labels" in made.method.needs and not settings.labels:
            raise SettingsError(f"arm {arm} buys labels: set labels to 1 or more")


def _publish(settings: GoldworldSettings, folder: Path) -> Row:
    found = summarise(settings, folder)
    with disk_errors(folder):
        write_json(folder / "goldworld.json", found)
        write_goldworld_report(folder / "report.html", found)
    return found


def _carried(
    settings: GoldworldSettings,
    folder: Path,
    processes: int,
    tell: Callable[[Row], None],
    stop: Callable[[], bool],
) -> Iterator[int]:
    """Each seed when all its arms are finished."""
    context = multiprocessing.get_context("spawn")
    stopping, told = context.Event(), context.Queue()
    with _one_thread_each(), ProcessPoolExecutor(processes, context, _prepare, (stopping, told)) as pool:
        seeds = {
            pool.submit(_seed, settings.dump(), str(folder), seed): seed for seed in range(settings.seeds)
        }
        waiting = set(seeds)
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                with suppress(Empty):
                    while True:
                        tell(told.get_nowait())
                if stop():
                    stopping.set()
                for future in finished:
                    future.result()
                    yield seeds[future]
        except Interrupted:
            raise Interrupted(_GO_ON) from None
        except BrokenProcessPool:
            raise ResourceError(
                "a process of the gold world was killed (memory?); the same command goes on"
            ) from None
        finally:
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _seed(settings: Row, folder: str, seed: int) -> None:
    """A seed, in a process of the pool."""
    stopping, told = _shared
    if stopping.is_set():
        raise Interrupted(_GO_ON)
    run_seed(build(settings), Path(folder) / f"seed-{seed:02d}", seed, tell=told.put, stop=stopping.is_set)


_shared: tuple[Any, Any]
"""Of a process of the pool: the event that asks it to stop, and the queue it tells what it does."""


def _prepare(stopping: Any, told: Any) -> None:
    global _shared
    _shared = stopping, told
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent asks


def _end_with_parent() -> None:
    """A parent that was killed asks nobody to stop, and two must not work on one seed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes begun inside compute on one thread; torch reads the variable when it is loaded."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
