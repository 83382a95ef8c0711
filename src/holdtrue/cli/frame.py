"""What the verbs share: their result, the options they have in common, and how errors end a command.

exit codes   0 ok · 1 bug in holdtrue · 2 usage or settings · 3 data or files · 4 quality gate
             5 interrupted · 6 memory or disk · 141 the reader of stdout went away (128 + SIGPIPE)
stdout       a verb's result: text, or with --json exactly one JSON value, also when it fails
stderr       everything else: progress, notes, errors
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.errors import (
    DataError,
    HoldtrueError,
    Interrupted,
    QualityError,
    ResourceError,
    SettingsError,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from holdtrue.settings import Settings

EXIT_BUG, EXIT_USAGE, EXIT_PIPE = 1, 2, 141
STOP_FILE = "HOLDTRUE_STOP_FILE"
"""Environment variable that names the file whose existence asks a run's processes to stop."""

Model = Annotated[
    str | None,
    typer.Option("--model", metavar="PATH", help="Model folder or run to start from (model.path)."),
]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
RunOrModel = Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="Run directory or model folder.")]
Models = Annotated[
    list[str], typer.Argument(metavar="RUN|MODEL...", help="Run directories or model folders.")
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option("--eval", metavar="PATH", help="Held-out pairs (data.eval). Repeatable."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="PATH", help="Where the result is written.")
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="Layout of the rows, when not told from the columns."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="KEY=NAME", help="Read KEY from the column NAME: margin=strength. Repeatable."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set any setting: training.max_steps=100. Repeatable, goes last."
    ),
]


@dataclass(frozen=True)
class Result:
    """What a verb returns.

    ``value`` is what ``--json`` prints: plain values with finite numbers. ``text`` is what a person
    sees instead: a string, printed as it stands, or anything rich can render. ``exit_code`` is 0, or 4
    when a quality gate failed.
    """

    value: Any
    text: RenderableType
    exit_code: int = 0


class PipeClosed(Exception):
    """Whoever read stdout has gone, as ``head`` does; nothing is left to say, and nobody to say it to."""


def show(result: Result, as_json: bool) -> int:
    """Print a verb's result to stdout; returns its exit code."""
    if as_json:
        print(json.dumps(result.value, allow_nan=False))
    elif isinstance(result.text, str):
        print(result.text)
    elif sys.stdout.isatty():
        console().print(result.text)
    else:  # rich fills cells with spaces up to the widest one
        screen = console()
        with screen.capture() as captured:
            screen.print(result.text)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    return result.exit_code


def require_page(output: Path) -> None:
    """Refuse to write a page over a file that is none, such as the data it is about; a page is replaced.

    Raises:
        DataError: there is a file with other contents, or it cannot be read.
    """
    if not output.is_file():
        return
    try:
        with open(output, "rb") as file:
            head = file.read(64).lstrip().lower()
    except OSError as error:
        raise DataError(f"{output} cannot be read: {error.strerror or error}") from error
    if head and not head.startswith(b"<!doctype html"):
        raise DataError(f"{output} exists, is no HTML page and is not replaced; choose another --output")


def console(stderr: bool = False) -> Console:
    """A rich console that never reads markup in data. Piped output is not wrapped; NO_COLOR is respected."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise PipeClosed  # rich would end the process with code 1

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return PlainConsole(
        stderr=stderr, markup=False, emoji=False, highlight=False, width=None if terminal else 10_000
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table; numbers are set to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        result.add_column(Text(header), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text(str(cell)) for cell in row))
    return result


def columns_from(columns: Sequence[str] | None) -> dict[str, str]:
    """``["margin=strength"]`` as ``{"margin": "strength"}``.

    Raises:
        SettingsError: one is not of the form KEY=NAME, or names a key twice.
    """
    result: dict[str, str] = {}
    for column in columns or ():
        key, equals, name = column.partition("=")
        if not equals or not key:
            raise SettingsError(f"--column takes KEY=NAME, got {column!r}, e.g. margin=strength")
        if key in result:
            raise SettingsError(f"--column {key} is given twice: {result[key]!r} and {name!r}")
        result[key] = name
    return result


def model_path(model: str | None) -> str | None:
    """What ``--model`` names: a folder, a hub name, or the model of a run.

    Raises:
        DataError: the run has no finished model yet.
    """
    from holdtrue.rundir import RunDir, find_model  # not for --help

    if model is None:
        return None
    if not Path(model).exists():  # the look-up may take half a minute to fail
        sys.stderr.write(f"there is no folder {model} here, so it is looked for on the hub\n")
    return str(find_model(model)) if RunDir(model).settings_file.is_file() else model


def settings_from(
    arguments: Sequence[str],
    *,
    model: str | None = None,
    format: str | None = None,
    columns: Sequence[str] | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
) -> Settings:
    """Settings of a reward model's run, from a command line; see :func:`values_from`."""
    from holdtrue import settings

    values = values_from(
        arguments, model=model, format=format, columns=columns, flags=flags, overrides=overrides
    )
    return settings.build(values)


def values_from(
    arguments: Sequence[str],
    *,
    model: str | None = None,
    format: str | None = None,
    columns: Sequence[str] | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Plain settings of a command line: a ``.yaml`` argument, then data arguments and flags, then ``--set``.

    Later ones win. Arguments that do not end in ``.yaml`` or ``.yml`` are the training data and take the
    place of the file's ``data.train``; ``--column`` adds to the file's ``data.columns``.
    ``flags`` are a verb's own by setting (``{"training.processes": 2}``); those that are None or [] were
    not given.

    Raises:
        SettingsError: two settings files, or a setting that cannot be used. DataError: the settings
        file is missing.
    """
    from holdtrue import settings

    files = [argument for argument in arguments if argument.lower().endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise SettingsError(f"only one settings file can be given, got {' and '.join(files)}")
    values = settings.read(files[0] if files else None)
    given: dict[str, Any] = {
        "data.train": [argument for argument in arguments if argument not in files],
        "model.path": model_path(model),
        "data.format": format,
        **(flags or {}),
    }
    given |= {f"data.columns.{key}": name for key, name in columns_from(columns).items()}
    for key, value in given.items():
        if value not in (None, []):
            settings.put(values, key, value)
    for override in overrides or ():
        settings.put(values, *settings.parse_override(override))
    return values


def gate(results: Iterable[dict[str, Any]], minimum: float | None) -> int:
    """Exit code of evaluations: that of QualityError when an accuracy is below ``minimum``, else 0.

    An accuracy that could not be measured is below.
    """
    missed = minimum is not None and any((result["accuracy"] or 0) < minimum for result in results)
    return QualityError.exit_code if missed else 0


def asks_for(flag: str, arguments: Sequence[str]) -> bool:
    """True when a flag stands on a command line; also of use when that cannot be parsed."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = arguments[:end]
    if flag == "--debug" and os.environ.get("HOLDTRUE_DEBUG", "0") not in ("", "0"):
        return True
    return flag in given and "--help" not in given


def silent() -> bool:
    """Whether another process says what came out: the first of several, or the one that started them."""
    return int(os.environ.get("RANK", "0")) > 0 or STOP_FILE in os.environ


def fail(error: BaseException, as_json: bool = False, debug: bool = False) -> int:
    """Say what ended a command and return its exit code: the one place where errors become codes."""
    if isinstance(error, (PipeClosed, BrokenPipeError)):
        # the interpreter flushes stdout once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_PIPE
    if isinstance(error, SystemExit):
        raise error
    kind, message, code = _explain(error)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if not (isinstance(error, Interrupted) and silent()):
        sys.stderr.write(f"error: {message}\n")  # at once: processes side by side have one terminal
    if as_json:
        failure = {"type": kind, "message": message, "exit_code": code}
        print(json.dumps({"error": failure}))
    return code


def _explain(error: BaseException) -> tuple[str, str, int]:
    """An error's type, message and exit code. Messages of foreign errors say what they are."""
    name, text = type(error).__name__, str(error).strip()
    if isinstance(error, HoldtrueError):
        return name, text, error.exit_code
    if hasattr(error, "format_message"):  # typer's, which are click's or a copy of them
        ctx = getattr(error, "ctx", None)
        hint = f" (see: {ctx.command_path} --help)" if ctx else ""
        return "UsageError", f"{error.format_message()}{hint}", EXIT_USAGE
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted", "interrupted", Interrupted.exit_code
    if _is_out_of_memory(error):
        message = f"out of memory: {text.splitlines()[0] if text else 'an allocation failed'}"
        return "ResourceError", f"{message}; lower training.max_tokens_per_pass", ResourceError.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "ResourceError", f"disk full{_at(error)}", ResourceError.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return "DataError", f"{error.strerror or text}{_at(error)}", DataError.exit_code
    package = str(Path(__file__).parents[1])
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if package in frame.filename]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    message = f"this is a bug in holdtrue: {name}: {text}{where} (--debug shows the traceback)"
    return name, message, EXIT_BUG


def _at(error: OSError) -> str:
    return f": {error.filename}" if error.filename is not None else ""


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch on CPU
