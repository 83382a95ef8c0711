"""``holdtrue demo``: the two failures of optimising against a reward model, on the embedded world."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from holdtrue import job
from holdtrue.cli import frame, main, running
from holdtrue.errors import Interrupted, ResourceError
from holdtrue.rundir import RunDir

_WORLDS = {
    "gold": ("--arms", "frozen,fresh_labels", "--set", "control=frozen"),
    "habit": ("--arms", "blind,veto", "--set", "habit=0.3"),
}
_PARTS = 11
"""Lines the two experiments tell of themselves."""


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything goes.")
    ] = Path("runs/demo"),
) -> frame.Result:
    """Train a reward model, watch a policy exploit it and a habit go unseen, and what helps: one page.

    Takes some minutes on two cores. A demo that was stopped goes on with the same command.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from holdtrue.report.story import write_story
    from holdtrue.settings import build

    run = RunDir(output)
    if not run.settings_file.is_file():
        run = job.start(build({}), output)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with running.stoppable() as stop, Progress(*columns, console=frame.console(stderr=True)) as progress:
        task = progress.add_task("reward model", total=_PARTS + 1)
        try:
            if run.info().get("status") != "finished":
                job.train(run, stop=stop)
            progress.update(task, advance=1, description="two experiments side by side")
            _both(output, lambda line: progress.update(task, advance=1, description=line), stop)
        except Interrupted:  # of a part, whose own word names that part alone
            raise Interrupted(f"stopped; continue with: holdtrue demo --output {output}") from None
        progress.update(task, completed=_PARTS + 1, description="done")
    page = write_story(output)
    value: dict[str, Any] = {
        "story": str(page),
        "report": str(run.path / "report.html"),
        "model": str(run.model),
    }
    return frame.Result(value, f"story    {page}\nreport   {value['report']}\nmodel    {value['model']}")


def experiment(arguments: Sequence[str]) -> int:
    """Run a command line in a process that ends when the one that holds its stdin has, however that ended."""

    def end_with_parent() -> None:
        while os.read(0, 1):
            pass
        os._exit(Interrupted.exit_code)

    threading.Thread(target=end_with_parent, daemon=True).start()
    return main.run(arguments)


def _both(output: Path, tell: Any, stop: running.Stop) -> None:
    """Both experiments, each in a process of its own; they are asked to stop when ``stop`` says so, or one of
    them fails.
    """
    program = "import sys; from holdtrue.cli.demo import experiment; sys.exit(experiment(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "goldworld", "--seeds", "1", "--processes", "1"]
    said: list[list[str]] = [[] for _ in _WORLDS]

    def listen(child: Any, lines: list[str]) -> None:
        for line in child.stderr:
            lines.append(line.strip())
            if line.startswith("seed"):
                tell(" ".join(line.split()[2:]))

    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, *options, "--output", str(output / name)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for name, options in _WORLDS.items()
        ]
        threads = [threading.Thread(target=listen, args=pair) for pair in zip(children, said, strict=True)]
        for thread in threads:
            thread.start()
        try:
            _wait(threads, children, stop)
        finally:
            for child in children:
                child.stdin.close()  # type: ignore[union-attr]  # ends those that have not ended
    for child, lines in zip(children, said, strict=True):
        if _failed(child) and not stop():
            last = lines[-1] if lines else ""
            raise ResourceError(f"an experiment of the demo ended with {child.returncode}: {last}")
    if any(child.returncode for child in children):
        raise Interrupted("stopped")


def _wait(threads: list[threading.Thread], children: list[subprocess.Popen[str]], stop: running.Stop) -> None:
    """Until the children have said their last; asks them once to stop when ``stop`` says so or one fails."""
    asked = False
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.2)
        if not asked and (stop() or any(map(_failed, children))):
            asked = True
            for child in children:
                child.terminate()  # a second SIGINT, after the terminal's own, would end it at once


def _failed(child: subprocess.Popen[str]) -> bool:
    """Whether it has ended, neither well nor because it was asked to stop."""
    return child.poll() not in (None, 0, Interrupted.exit_code, -signal.SIGTERM)
