"""Folders that score with other folders: an ensemble of reward models, a policy against its reference.

Each holds one small JSON file, ``ensemble.json`` or ``implicit.json``, that names the folders and the hashes
of their weights: a member that changed is not scored with.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from holdtrue.errors import DataError, ModelError
from holdtrue.kinds import explain
from holdtrue.reward.card import weights_hash
from holdtrue.rundir import disk_errors, find_model, read_json, write_json

ENSEMBLE, IMPLICIT = "ensemble.json", "implicit.json"


class Record(BaseModel):
    """Base of what stands in the JSON files."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Member(Record):
    """A folder that is scored with.

    Attributes:
        path: absolute.
        sha256: its :func:`identity` when it was named.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> Member:
        """The member behind a RUN or MODEL argument."""
        folder = find_model(path).absolute()
        return cls(path=str(folder), sha256=identity(folder))

    def folder(self, owner: Path) -> Path:
        """Where the member is, unchanged since ``owner`` was written.

        Raises:
            ModelError: it is gone or has other weights now.
        """
        folder = Path(self.path)
        if not folder.is_dir():
            raise ModelError(f"{owner} needs {folder}, which does not exist")
        if identity(folder) != self.sha256:
            raise ModelError(f"{owner} was made with other weights than {folder} has now; make it again")
        return folder


def identity(folder: Path) -> str:
    """SHA-256 of what a folder's rewards depend on: its weights, or the file that names its members.

    Raises:
        DataError: the folder holds neither.
    """
    for name in (ENSEMBLE, IMPLICIT):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return weights_hash(folder)


R = TypeVar("R", bound=Record)


def read(kind: type[R], file: Path) -> R:
    """The record in a file.

    Raises:
        DataError: it is not one this version can read.
    """
    try:
        return kind.model_validate(read_json(file))
    except ValidationError as error:
        raise DataError(f"{file}: {explain(error, '')}") from error


def write(record: Record, folder: Path, name: str) -> None:
    """Write a record into a new folder."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, record.model_dump(mode="json"))
