"""What experiments of many runs have in common: their folder, and that their runs can be compared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from holdtrue import job
from holdtrue.errors import DataError, SettingsError
from holdtrue.rundir import RunDir, begun, disk_errors, write_text
from holdtrue.settings import Settings


def require_comparable(settings: Settings, verb: str) -> None:
    """Refuse settings whose runs could not be trained here or not be compared.

    Raises:
        SettingsError: data or model are missing, nothing is held out, or several processes are asked for.
    """
    if not settings.data.train or not settings.model.path:
        raise SettingsError(f"{verb} needs data and a model: holdtrue {verb} PAIRS... --model PATH")
    if not settings.data.eval and not settings.data.eval_fraction:
        raise SettingsError(
            f"{verb} compares runs on held-out pairs; name some (--eval) or set data.eval_fraction"
        )
    if max(settings.training.processes, int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise SettingsError(f"{verb} trains in one process; training.processes must be 1")


@contextmanager
def workplace(
    folder: Path, name: str, wanted: Mapping[str, Any], may_change: Collection[str] = ()
) -> Iterator[None]:
    """The experiment's folder for this process alone, with its settings in the file ``name``.

    Raises:
        SettingsError: the folder holds something else, or an experiment with other settings but for those
            that ``may_change``, or another process is at work in it.
    """
    file = folder / name
    if not file.is_file() and folder.exists() and (not folder.is_dir() or any(_foreign(folder, name))):
        raise SettingsError(f"{folder} already exists and holds no {name}; choose another --output")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with RunDir(folder).claim():
        if file.is_file() and (difference := _difference(_read(file), wanted, may_change)):
            raise SettingsError(
                f"{folder} was begun with other settings: {difference}; choose another --output"
            )
        with disk_errors(file):
            write_text(file, yaml.safe_dump(dict(wanted), sort_keys=False, allow_unicode=True))
        yield


def _foreign(folder: Path, name: str) -> Iterator[str]:
    """What a folder holds beside that which one killed at its very start has left."""
    return (one for one in os.listdir(folder) if one != ".lock" and not one.startswith(f".{name}."))


def open_or_start(path: Path, settings: Settings) -> RunDir:
    """The run at ``path``, begun with these settings where there is none yet."""
    return begun(path, lambda: job.start(settings, path))


def drop_checkpoints(run: RunDir) -> None:
    """Delete the checkpoints of a run that has ended: many runs' optimiser states would fill the disk."""
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    if not isinstance(values, dict):
        raise DataError(f"{file} does not hold settings")
    return values


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str]) -> str | None:
    """The first setting that differs, in words."""
    old, new = dict(_flat(before)), dict(_flat(now))
    for key in [*old, *new]:
        free = any(f"{key}.".startswith(f"{one}.") for one in may_change)
        if not free and old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
    return None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
