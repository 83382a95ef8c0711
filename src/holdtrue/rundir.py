"""The run directory: the files through which the rooms of holdtrue speak with each other.

    settings.yaml    the settings, complete, and run.json: versions, command, data hashes, counts
    metrics.jsonl    one row per logged step or validation: the truth about the run
    rejected.jsonl   rows that could not be read, with file, line, byte offset and reason
    dropped.jsonl    comparisons left out after reading (too long, identical, ...), with the reason
    bag_of_words.npz a baseline fitted on the training pairs, for every evaluation of the run
    checkpoints/     resumable states        model/   the final model
    evaluation.json  measurements of the final model        report.html   the page made of all this

Nothing here needs torch, and every file is written so that a reader never meets half of it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from holdtrue import __version__
from holdtrue.errors import DataError, ResourceError, SettingsError

LONE_SURROGATES = "backslashreplace"  # UTF-8 cannot hold them, and JSON spells them just so: \udc80


class RunDir:
    """Paths and files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.settings_file = self.path / "settings.yaml"
        self.info_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.rejected_file = self.path / "rejected.jsonl"
        self.dropped_file = self.path / "dropped.jsonl"
        self.bag_of_words_file = self.path / "bag_of_words.npz"
        self.evaluation_file = self.path / "evaluation.json"
        self.report_file = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"

    @classmethod
    def create(cls, path: str | Path, settings: Mapping[str, Any]) -> RunDir:
        """A new run directory with its settings in it, and in ``run.json`` what began it.

        What a run left that failed before its first step is replaced.

        Raises:
            SettingsError: the directory exists and holds anything else.
        """
        run = cls(path)
        if run.failed_at_start():
            shutil.rmtree(run.path)
        hint = f"; continue it with: holdtrue resume {path}" if run.settings_file.exists() else ""
        require_empty(run.path, hint)
        with disk_errors(path):
            run.path.mkdir(parents=True, exist_ok=True)
            run.checkpoints.mkdir(exist_ok=True)
            write_text(run.settings_file, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
            run.update_info(
                holdtrue=__version__,
                python=platform.python_version(),
                command=sys.argv,
                started=now(),
                status="running",
            )
        return run

    def failed_at_start(self) -> bool:
        """Whether here is a run, and nothing else, that ended in an error before it had trained at all."""
        own = {self.settings_file, self.info_file, self.rejected_file, self.dropped_file, self.checkpoints}
        own.add(self.bag_of_words_file)
        if not self.settings_file.is_file() or not set(self.path.iterdir()) <= own | {self.path / ".lock"}:
            return False
        trained = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return not trained and self.info().get("status") == "failed"

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run directory.

        Raises:
            DataError: there is none at ``path``.
        """
        run = cls(path)
        if not run.settings_file.is_file():
            raise DataError(f"{path} is not a run directory (no settings.yaml in it)")
        return run

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        try:
            loaded = yaml.safe_load(self.settings_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            loaded = None
        if not isinstance(loaded, dict):
            raise DataError(f"{self.settings_file} does not hold settings")
        return loaded

    def info(self) -> dict[str, Any]:
        """What is known of the run besides its settings (empty before anything is)."""
        return read_object(self.info_file) if self.info_file.exists() else {}

    def update_info(self, **values: Any) -> None:
        """Add to or replace in ``run.json``."""
        write_json(self.info_file, self.info() | values)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep other processes from working on the run; however this one ends, the system lets go of it.

        Half-written files of processes that were killed are removed.

        Raises:
            SettingsError: another process is working on it.
        """
        with disk_errors(self.path):
            file = open(self.path / ".lock", "a+", encoding="ascii")  # noqa: SIM115
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SettingsError(f"{self.path} is in use by another process; wait until it ends") from None
            for path in self.path.glob(".*.tmp"):
                writer = path.name.split(".")[-2]
                if writer.isdecimal() and not alive(int(writer)):
                    path.unlink(missing_ok=True)
            yield

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl``; a last line cut short by a crash is left out."""
        return list(read_jsonl(self.metrics_file)) if self.metrics_file.exists() else []

    @property
    def left_out_files(self) -> list[str]:
        """Names of the files in it that list rows of the data that were left out."""
        return [file.name for file in (self.rejected_file, self.dropped_file) if file.exists()]


def standing(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of steps that the policy at the end of an optimisation has behind it: no later rollback took
    them back."""
    rows = list(rows)
    undone = [(one["to"], one["step"]) for one in rows if one["event"] == "rollback"]
    return [one for one in rows if not any(first < one["step"] <= last for first, last in undone)]


def require_empty(folder: Path, hint: str = "") -> None:
    """Refuse to write into a folder that holds something; ``hint`` ends the sentence.

    Raises:
        SettingsError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} already exists and is not empty; choose another --output{hint}")


def begun(path: Path, start: Callable[[], RunDir]) -> RunDir:
    """The run at a path; ``start`` makes it where there is none yet.

    What a kill left there before the settings were written is deleted.
    """
    run = RunDir(path)
    if run.settings_file.is_file():
        return run
    shutil.rmtree(path, ignore_errors=True)
    return start()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def alive(pid: int) -> bool:
    """Whether a process of this machine has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


class disk_errors:
    """Context that turns a full disk into a ResourceError and an unwritable path into a DataError."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"disk full while writing {self.path}; what was there before is kept"
            ) from error
        raise DataError(f"cannot write {self.path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write text as :func:`write_bytes` does."""
    write_bytes(path, text.encode("utf-8", LONE_SURROGATES))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one, whatever happens."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value atomically; numbers must be finite."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """One JSON value.

    Raises:
        DataError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """One JSON object.

    Raises:
        DataError: the file is missing or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as :func:`write_bytes` does."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows, each in a single write, so that a crash leaves at most one cut line at the end.

    A line that an earlier crash cut short is taken away first.
    """
    _drop_cut_line(path)
    with open(path, "a", encoding="utf-8", errors=LONE_SURROGATES) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()


def _drop_cut_line(path: Path) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file this package wrote; stops before a last line without its newline.

    Raises:
        DataError: another line is not a JSON object.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number} holds a {type(row).__name__}, expected an object")
            yield row


def find_model(path: str | Path) -> Path:
    """The model folder behind a RUN or MODEL argument.

    Raises:
        DataError: nothing is there, or the run has no finished model yet.
    """
    run = RunDir(path)
    if run.settings_file.is_file():
        if not _is_model(run.model):
            raise DataError(_without_model(run))
        return run.model
    if _is_model(run.path):
        return run.path
    if not run.path.exists():
        raise DataError(f"{path} does not exist")
    raise DataError(f"{path} is neither a run directory (settings.yaml) nor a model folder (config.json)")


def _without_model(run: RunDir) -> str:
    """What to do about a run that has no model of its own, or none yet."""
    task = run.settings().get("task")
    rounds = [row for row in run.metrics() if row["event"] == "round"] if task == "rounds" else []
    if rounds:
        made = rounds[-1]
        return f"{run.path} is a run of rounds; its policy is {made['policy']}, its model {made['model']}"
    if task == "goldworld":
        return f"{run.path} is a gold world; name a run in it, such as {run.path}/seed-00/trunk/reward"
    return f"{run.path} has no finished model yet; continue it with: holdtrue resume {run.path}"


def _is_model(folder: Path) -> bool:
    names = ("config.json", "adapter_config.json", "ensemble.json", "implicit.json")
    return any((folder / name).is_file() for name in names)
