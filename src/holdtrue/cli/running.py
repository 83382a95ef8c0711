"""Carrying a run to its end from a terminal: signals, progress, and several processes through torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from holdtrue import job
from holdtrue.cli import frame, report
from holdtrue.errors import HoldtrueError, Interrupted, ResourceError
from holdtrue.rundir import RunDir, disk_errors, read_json

if TYPE_CHECKING:
    from rich.progress import Progress

Stop = Callable[[], bool]


def carry(run: RunDir, trust_remote_code: bool) -> frame.Result | None:
    """Train a run to its end, here or in the processes its settings ask for, and return what came out.

    What is trained, a reward model or a policy, its settings say.
    """
    from holdtrue.policy import sft_settings

    of_policy = run.settings().get("task") == "sft"
    settings = sft_settings.build(run.settings()) if of_policy else job.settings_of(run)

    def train(stop: Stop) -> None:
        with Narrator() as narrator:
            if of_policy:
                from holdtrue.policy import sft

                sft.train(run, tell=narrator, stop=stop, trust_remote_code=trust_remote_code)
            else:
                job.train(run, tell=narrator, stop=stop, trust_remote_code=trust_remote_code)

    if not carried(run, settings.training.processes, trust_remote_code, train):
        return None
    if of_policy:
        report.publish(run)
    return policy_result(run) if of_policy else reward_result(run)


def carried(run: RunDir, processes: int, trust_remote_code: bool, train: Callable[[Stop], None]) -> bool:
    """Carry a run to its end, by ``train`` or in several processes; whether this one says what came out."""
    if processes > 1 and not under_torchrun():
        launch(run, processes, trust_remote_code)
    else:
        with stoppable() as stop:
            train(stop)
    return not frame.silent()


def policy_result(run: RunDir) -> frame.Result:
    """What came out of a finished fine-tuning run."""
    info, rows = run.info(), run.metrics()
    held = [row for row in rows if row["event"] == "eval" and row["step"] == info["best_step"]]
    kept = ("loss", "accuracy", "answers")
    value = {
        "run": str(run.path),
        "model": str(run.model),
        "report": str(run.report_file),
        "model_hash": info["model_hash"],
        "steps": info["steps"],
        "best_step": info["best_step"],
        "dropped": {split: counts["dropped"] for split, counts in info["data"].items()},
        "cut": {split: counts["cut"] for split, counts in info["data"].items()},
        "stops": info["model"]["stops"],
        "train": {key: [row for row in rows if row["event"] == "train"][-1][key] for key in kept[:2]},
        "validation": {key: held[-1][key] for key in kept} if held else None,
    }
    stops = ", ".join(f"{name} ({id})" for name, id in info["model"]["stops"].items()) or "none"
    words = [f"step {info['best_step']} of {info['steps']} is the best"] if held else []
    words += [f"stops    {stops}", f"policy   {run.model}", f"report   {run.report_file}"]
    if held:
        words[:0] = [
            f"validation loss {number(held[-1]['loss'])} nats per token, likeliest token right "
            f"{held[-1]['accuracy']:.1%} ({held[-1]['answers']:,} examples)"
        ]
    return frame.Result(value, "\n".join(words))


def reward_result(run: RunDir) -> frame.Result:
    """What came out of a finished run of a reward model."""
    from rich.console import Group

    from holdtrue.evaluation.summary import render

    result = read_json(run.evaluation_file)["results"][0]
    info = run.info()
    value = {
        "run": str(run.path),
        "model": str(run.model),
        "report": str(run.report_file),
        "model_hash": info["model_hash"],
        "steps": info["steps"],
        "dropped": {split: counts["dropped"] for split, counts in info["data"].items()},
        "evaluation": result,
    }
    minimum = job.settings_of(run).evaluation.min_accuracy
    code = frame.gate([result], minimum)
    words = [f"accuracy is below evaluation.min_accuracy {minimum}"] if code else []
    best = info.get("best_step")
    kept = f" (step {best} of {info['steps']}, the best)" if best is not None and best < info["steps"] else ""
    words += [f"model    {run.model}{kept}", f"report   {run.report_file}"]
    return frame.Result(value, Group(render(result, slices=False), *words), code)


def under_torchrun() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def stoppable() -> Iterator[Stop]:
    """A question that turns true once Ctrl-C or SIGTERM came; a second Ctrl-C ends the process at once."""
    asked = False
    file = os.environ.get(frame.STOP_FILE)

    def ask(number: int, where: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not asked:
            _announce_stop()
        asked = True

    with _handled(ask):
        yield lambda: asked or (file is not None and os.path.exists(file))


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _announce_stop() -> None:
    # not print: the signal may have come in the middle of one, and a buffer cannot be entered twice
    os.write(2, b"stopping after this step (again to stop at once) ...\n")


def launch(run: RunDir, processes: int, trust_remote_code: bool) -> None:
    """Carry the run in several processes.

    They are asked to stop by a file, as torchrun would kill what has not stopped within half a minute.
    """
    command = [sys.executable, "-m", "holdtrue.training.launch", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "holdtrue", "resume", str(run.path)]
    command += ["--trust-remote-code"] if trust_remote_code else []
    stop_file = run.path / ".stop"
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, frame.STOP_FILE: str(stop_file)}
    with run.claim(), disk_errors(run.path):  # let go of again, for the first of the processes
        stop_file.unlink(missing_ok=True)
        run.update_info(status="running", exit_code=None, error=None)
    # stdout holds the result alone; a session of its own, so that a terminal's Ctrl-C comes only here
    child = subprocess.Popen(command, stdout=sys.stderr.fileno(), start_new_session=True, env=environment)

    def stop(number: int, where: FrameType | None) -> None:
        if stop_file.exists():
            child.terminate()
        else:
            _announce_stop()
            stop_file.touch()

    try:
        with _handled(stop):
            code = child.wait()
    finally:
        stop_file.unlink(missing_ok=True)
    if code and run.info()["status"] != "finished":
        raise _what_ended(run)


def _what_ended(run: RunDir) -> HoldtrueError:
    """The error that the run's processes wrote down before they ended."""
    info = run.info()
    message = info.get("error") or "a process was killed, as the system does when memory runs out"
    again = f"{message}; continue with: holdtrue resume {run.path}"
    if info["status"] == "running":
        return ResourceError(again)
    if info["status"] == "interrupted":
        return Interrupted(message)
    error = HoldtrueError(message)
    error.exit_code = int(info.get("exit_code") or 1)  # type: ignore[misc]
    return error


class Narrator:
    """Tells a run's events on stderr: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.console = frame.console(stderr=True)
        self.progress: Progress | None = None
        self._last = 0.0
        self._task: Any = None

    def __enter__(self) -> Narrator:
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        if event == "world":
            self.console.print("no data given: writing the support-desk world and its decoder ...")
        elif event == "prepared":
            self._prepared(values)
        elif event == "metrics":
            self._metrics(values)

    def _prepared(self, info: dict[str, Any]) -> None:
        from holdtrue.data.transforms import sentence

        model = info["model"]
        part = "" if model["trainable"] == model["parameters"] else f" ({model['trainable']:,} trained)"
        self.console.print(
            f"model    {model['architecture']}, {model['parameters']:,} parameters{part}, "
            f"{model['precision']}, {model['device']}, up to {model['max_length']} tokens"
        )
        if len(model["fresh"]) > 1:
            self.console.print(f"         not in its folder, so drawn at random: {', '.join(model['fresh'])}")
        if model["layout"] == "padded":
            self.console.print(f"         padded batches: {model['layout_reason']}")
        for split in ("train", "eval"):
            counts = info["data"][split]
            if not counts["trees"] and not counts["dropped"]:
                self.console.print(f"{split:<8} nothing held out")
                continue
            tokens = f"{counts['tokens_real']:,} tokens"
            shared = counts["tokens_real"] / max(counts["tokens_unique"], 1)
            if model["layout"] == "tree" and shared > 1:
                tokens = f"{counts['tokens_unique']:,} tokens (sharing saves {shared:.2f}x)"
            lost = {**counts.get("rejected", {}), **counts["dropped"]}
            left_out = ", ".join(f"{n:,} {reason}" for reason, n in lost.items()) or "nothing"
            if listed := [f"{what}.jsonl" for what in ("rejected", "dropped") if counts.get(what)]:
                left_out += f" (see {', '.join(listed)})"
            cut = "".join(f"; {n:,} {reason}" for reason, n in counts["cut"].items())
            self.console.print(
                f"{split:<8} {_counted(counts['comparisons'], counts['answers'])} of "
                f"{counts['prompts']:,} prompts, {tokens}; left out: {left_out}{cut}"
            )
            for change in counts.get("transformed", ()):
                self.console.print(f"         {sentence(change)}")

    def _metrics(self, row: dict[str, Any]) -> None:
        if row["event"] == "eval":
            self.console.print(
                f"step {row['step']:>6}  validation  loss {number(row['loss'])}  "
                f"{_accuracy(row)}({_counted(row['count'], row['answers'])})"
            )
            return
        text = f"loss {number(row['loss'])}  {_accuracy(row)}".rstrip()
        speed = f"{row['tokens_per_second']:,.0f} tokens/s"
        if sys.stderr.isatty():
            self._bar(row, f"{text}  {speed}")
        elif time.monotonic() - self._last > 5 or row["step"] == row["steps"]:
            self._last = time.monotonic()
            left = row["seconds"] / row["step"] * (row["steps"] - row["step"])
            self.console.print(f"step {row['step']:>6}/{row['steps']}  {text}  {speed}  {left:.0f} s left")

    def _bar(self, row: dict[str, Any], text: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self.progress is None:
            self.progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.progress.start()
            self._task = self.progress.add_task(text, total=row["steps"])
        self.progress.update(self._task, completed=row["step"], description=text)


def number(value: float | None) -> str:
    """A metric, or that it is not finite."""
    return "not finite" if value is None else f"{value:z.4f}"


def _accuracy(row: dict[str, Any]) -> str:
    """Nothing for losses of ratings on rows that compare nothing."""
    return "" if row["accuracy"] is None else f"accuracy {number(row['accuracy'])}  "


def _counted(comparisons: int, answers: int) -> str:
    return f"{comparisons:,} comparisons" if comparisons else f"{answers:,} answers"
