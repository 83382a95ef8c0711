"""Checkpoints that survive a kill, a crash and a full disk.

    checkpoints/.tmp-30-4711/        being written by process 4711
    checkpoints/step-00000030/       published: <name>.safetensors, state.json, MANIFEST.json

A folder is written under its temporary name, every file and the folder are fsynced, ``MANIFEST.json``
(step, and size and SHA-256 of every file) is written last, and one rename publishes it. Only after it has
been read back and its hashes agree are older checkpoints deleted. So at any moment the newest checkpoint
whose manifest agrees (:func:`newest`) is a whole one, and at most the work since the last one is lost.

In a distributed run one process calls these functions; the others may write files of their own into
the folder :func:`publish` gives.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdtrue.errors import DataError
from holdtrue.rundir import RunDir, alive, disk_errors, read_json, write_json

MANIFEST = "MANIFEST.json"
STATE = "state.json"

_PUBLISHED = re.compile(r"step-(\d{8,})(?:\.old)?")
_TEMPORARY = re.compile(r"\.tmp-.+-(\d+)")
_log = logging.getLogger(__name__)


def folder_of(run: RunDir, step: int) -> Path:
    """Where the checkpoint of ``step`` is published."""
    return run.checkpoints / f"step-{step:08d}"


def save(
    run: RunDir,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    keep: int,
    protect: Container[int] = (),
) -> Path:
    """Publish a checkpoint and delete those it makes superfluous.

    Args:
        step: optimiser steps done.
        tensors: file name without ending -> tensors by name, of any device, shape and type, e.g.
            ``{"model": ..., "optimizer": ..., "rng": ...}``.
        state: everything else as finite JSON values (keys come back as strings, tuples as lists).
        keep, protect: as in :func:`prune`.

    Returns:
        The published folder, read back and found whole.

    Raises:
        ResourceError: the disk is full; the checkpoints from before are untouched.
        DataError: the folder cannot be written or does not read back; likewise.
    """
    with publish(run, step) as folder:
        for name, group in tensors.items():
            _write_tensors(folder / f"{name}.safetensors", group)
        write_json(folder / STATE, state)
    prune(run, step, keep=keep, protect=protect)
    return folder_of(run, step)


@contextmanager
def publish(run: RunDir, step: int) -> Iterator[Path]:
    """Folder to write into; it becomes the checkpoint of ``step`` when the block ends without an error.

    Whoever writes there (also ``torch.distributed.checkpoint``, from several processes) need not care for
    fsync or half-written files. A checkpoint of the same step is replaced. Call :func:`prune` afterwards.

    Raises:
        ResourceError, DataError: as :func:`save`, also for an OSError raised in the block.
    """
    final = folder_of(run, step)
    with disk_errors(final):
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        sweep(run)
        folder = run.checkpoints / f".tmp-{step}-{os.getpid()}"
        try:
            folder.mkdir()
            yield folder
            _seal(folder, step)
            if final.exists():
                aside = final.with_name(f"{final.name}.old")
                if aside.exists():
                    _delete(aside)
                os.rename(final, aside)  # stays a candidate of newest() until the new one is in place
            os.rename(folder, final)
            _fsync(run.checkpoints)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if reason := fault(final):
        raise DataError(f"checkpoint {final} does not read back: {reason}; older ones are kept")


def prune(run: RunDir, step: int, *, keep: int, protect: Container[int] = ()) -> None:
    """Delete checkpoints that the whole one of ``step`` makes superfluous.

    Kept are the ``keep`` newest up to ``step`` and those of the steps in ``protect`` (the best one).
    Checkpoints after ``step`` go: resume found them broken and walked back past them.
    """
    with disk_errors(run.checkpoints):
        listed = _listed(run)
        earlier = [path for at, path in listed if at < step and at not in protect]
        surplus = earlier[: max(0, len(earlier) - (keep - 1))]
        beyond = [path for at, path in listed if at > step and at not in protect]
        replaced = [path for _, path in listed if path.suffix and path.with_suffix("").exists()]
        for path in {*surplus, *beyond, *replaced}:
            _delete(path)


def newest(
    run: RunDir, *, at: int | None = None, tell: Callable[[str], None] = _log.warning
) -> tuple[int, Path] | None:
    """Step and folder of the newest whole checkpoint (of step ``at``, when given), or None.

    ``tell`` gets one sentence for each broken one passed on the way.
    """
    for step, path in reversed(_listed(run)):
        if at is not None and step != at:
            continue
        reason = fault(path)
        if reason is None:
            return step, path
        tell(f"checkpoint {path} is broken and was passed over: {reason}")
    return None


def read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors (on the CPU) and state of a checkpoint written by :func:`save`.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    state = read_json(path / STATE)
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            loaded = load_file(file)
        except (OSError, SafetensorError) as error:
            raise DataError(f"checkpoint file {file} cannot be read: {error}") from error
        # load_file maps the file; a copy lets go of it, so that deleting it frees the disk.
        tensors[file.stem] = {name: tensor.clone() for name, tensor in loaded.items()}
    return tensors, state


def fault(path: Path) -> str | None:
    """What is wrong with a published checkpoint, or None when every file agrees with the manifest."""
    try:
        manifest = read_json(path / MANIFEST)
        for name, seen in manifest["files"].items():
            actual = _describe(path / name)
            if actual["bytes"] != seen["bytes"]:
                return f"{name} has {actual['bytes']} bytes, the manifest says {seen['bytes']}"
            if actual != seen:
                return f"{name} differs from its SHA-256 in the manifest"
        if manifest.keys() != {"step", "files"} or f"step-{manifest['step']:08d}" != path.stem:
            return f"{MANIFEST} is not that of this step"
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or path} cannot be read: {error.strerror}"
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{MANIFEST} is damaged"
    return None


def sweep(run: RunDir) -> None:
    """Remove what dead processes, or an earlier failure of this one, left behind."""
    for path in run.checkpoints.glob(".tmp-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and (int(match[1]) == os.getpid() or not alive(int(match[1]))):
            shutil.rmtree(path, ignore_errors=True)


def _listed(run: RunDir) -> list[tuple[int, Path]]:
    """Published checkpoints, whole or not, oldest first; ``.old`` before the one that replaces it."""
    if not run.checkpoints.is_dir():
        return []
    found = ((_PUBLISHED.fullmatch(path.name), path) for path in run.checkpoints.iterdir())
    return sorted(
        ((int(match[1]), path) for match, path in found if match),
        key=lambda item: (item[0], not item[1].suffix),
    )


def _seal(folder: Path, step: int) -> None:
    """Force every file to the disk, then write the manifest that vouches for them."""
    inside = sorted(folder.rglob("*"))
    files = {path.relative_to(folder).as_posix(): _describe(path) for path in inside if path.is_file()}
    for path in inside:
        _fsync(path)
    write_json(folder / MANIFEST, {"step": step, "files": files})
    _fsync(folder)


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    """Remove a published folder so that no moment shows half of it under its name."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    os.rename(path, temporary)
    shutil.rmtree(temporary)


def _write_tensors(path: Path, group: Mapping[str, Tensor]) -> None:
    """One safetensors file; tensors that share memory are written once each."""
    unique: dict[str, Tensor] = {}
    storages = set()
    for name, tensor in group.items():
        tensor = tensor.detach().contiguous()
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        unique[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    try:
        save_file(unique, path)
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from error
        raise
