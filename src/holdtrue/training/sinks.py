"""Trackers that get the rows of ``metrics.jsonl`` as well, and the winding back of that file on resume.

``metrics.jsonl`` is the truth about a run; TensorBoard, Weights & Biases and trackio are views of it,
imported only when ``training.report_to`` names them. A row ``{"event": "train", "step": 3, "loss": 0.6}``
becomes the value 0.6 of ``train/loss`` at step 3.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from holdtrue.errors import SettingsError
from holdtrue.rundir import RunDir, disk_errors, write_text

Values = Mapping[str, float]
Sink = tuple[Callable[[Values, int], Any], Callable[[], Any]]
"""How values are written at a step, and how the tracker is closed."""


class Sinks:
    """The trackers of one run; a context manager that closes them.

    Args:
        names: ``tensorboard``, ``wandb``, ``trackio``; none is fine.
        settings: plain values shown as the run's configuration.
        resumed_at: step the run is continued from, so that later values of the run before are hidden.

    Raises:
        SettingsError: a tracker is not installed; says how to install it.
    """

    def __init__(
        self, names: Iterable[str], run: RunDir, settings: Mapping[str, Any], *, resumed_at: int | None = None
    ) -> None:
        self._sinks: list[Sink] = []
        for name in names:
            try:
                with redirect_stdout(sys.stderr):  # what trackio prints must not end up inside --json
                    self._sinks.append(_OPEN[name](run, settings, resumed_at))
            except ImportError as error:
                self.close()
                raise SettingsError(
                    f"training.report_to names {name}, which is not installed ({error}); "
                    "install it with: pip install 'holdtrue[trackers]'"
                ) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Pass on the numbers of one row of ``metrics.jsonl``."""
        values = {
            f"{row['event']}/{key}": value
            for key, value in row.items()
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        for log, _ in self._sinks:
            log(values, row["step"])

    def close(self) -> None:
        """Flush and close every tracker."""
        while self._sinks:
            _, finish = self._sinks.pop()
            with redirect_stdout(sys.stderr):
                finish()

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def rewind(run: RunDir, step: int, file: Path | None = None) -> int:
    """Take out of ``metrics.jsonl`` what was written after ``step``; resume writes it anew.

    ``file`` is another one whose rows have a step.
    Rows of a later step go, and so does a line a crash has cut or filled with garbage; the others keep
    every byte. The file is replaced in one go.

    Returns:
        Lines taken out.
    """
    file = file or run.metrics_file
    if not file.exists():
        return 0
    with disk_errors(file):
        lines = list(io.BytesIO(file.read_bytes()))
        kept = [line for line in lines if line.endswith(b"\n") and _step(line) <= step]
        if len(kept) < len(lines):
            write_text(file, b"".join(kept).decode())
    return len(lines) - len(kept)


def _step(line: bytes) -> float:
    """Step of a row; of a line that is none, infinity."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _tensorboard(run: RunDir, settings: Mapping[str, Any], resumed_at: int | None) -> Sink:
    from torch.utils.tensorboard import SummaryWriter

    purge = None if resumed_at is None else resumed_at + 1
    writer = SummaryWriter(log_dir=str(run.path / "tensorboard"), purge_step=purge)
    if resumed_at is None:
        writer.add_text("settings", f"```json\n{json.dumps(settings, indent=1, ensure_ascii=False)}\n```")

    def log(values: Values, step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def _wandb(run: RunDir, settings: Mapping[str, Any], resumed_at: int | None) -> Sink:
    import wandb

    # After a resume wandb leaves out steps it has already seen; they are the same numbers.
    tracked = wandb.init(
        project="holdtrue",
        name=run.path.name,
        id=None if resumed_at is None else run.info().get("wandb"),
        resume="allow",
        dir=run.path,
        config=dict(settings),
    )
    run.update_info(wandb=tracked.id)
    return lambda values, step: tracked.log(dict(values), step=step), tracked.finish


def _trackio(run: RunDir, settings: Mapping[str, Any], resumed_at: int | None) -> Sink:
    import trackio

    tracked = trackio.init(
        project="holdtrue",
        name=run.path.name,
        resume="never" if resumed_at is None else "allow",
        config=dict(settings),
    )
    return lambda values, step: tracked.log(dict(values), step=step), tracked.finish


_OPEN: dict[str, Callable[[RunDir, Mapping[str, Any], int | None], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
