"""Weights of a model folder or adapter, read from safetensors a few rows at a time: no torch, little memory.

A safetensors file is eight bytes (the header's length, little-endian), a JSON header that gives each
tensor's ``dtype``, ``shape`` and place, and the tensors' bytes, row by row.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import ModelError

Array = NDArray[np.float32]

EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
"""How the two matrices' names end; a name is also what PEFT saves, with more before it."""
CHUNK = 1 << 24
"""Values decoded together: 64 MB as float32."""
PROJECTIONS, WIDTH, GRIDS = 10, 0.1, 4
"""How rows that point the same way are found (:func:`row_statistics`)."""

_STORED: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
}
_MOST_HEADER = 100_000_000  # bytes, as safetensors itself limits it


class Pickled(ModelError):
    """The weights are pickles, which can run code when they are loaded, so they are not."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: bytes ``start`` to ``end`` of ``file``."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def width(self) -> int:
        """Values in a row."""
        return math.prod(self.shape[1:])

    @property
    def floating(self) -> bool:
        """Whether its values are numbers of their own, not packed or scaled integers."""
        return self.dtype in _STORED

    def read(self, first: int, last: int) -> Array:
        """Rows ``first`` to ``last`` (exclusive) as float32, (rows, width)."""
        stored = _STORED[self.dtype]
        count = (last - first) * self.width
        place = self.start + first * self.width * stored.itemsize
        try:
            raw = np.fromfile(self.file, stored, count, offset=place)
        except OSError as error:
            raise ModelError(f"{self.file} cannot be read: {error.strerror or error}") from error
        if raw.size != count:
            raise ModelError(f"{self.file} ends inside tensor {self.name}; copy the file again")
        return _decoded(raw, self.dtype).reshape(last - first, self.width)

    def write(self, row: int, values: Array) -> None:
        """Put float32 values into one row of the file, rounded to the stored type (16 or 32 bits)."""
        self.check_writable()
        stored = _STORED[self.dtype]
        raw = _encoded(values, self.dtype)
        with open(self.file, "r+b") as file:
            file.seek(self.start + row * self.width * stored.itemsize)
            file.write(raw.tobytes())

    def check_writable(self) -> None:
        """Refuse types whose rows share a scale.

        Raises:
            ModelError: such as eight-bit floats.
        """
        if not self.floating or _STORED[self.dtype].itemsize == 1:
            raise ModelError(f"{self.file}: rows of {self.dtype} are scaled and cannot be set one by one")

    def chunks(self) -> Iterator[tuple[int, Array]]:
        """Its rows in order, each piece with the index of its first row."""
        step = max(1, CHUNK // max(1, self.width))
        for first in range(0, self.rows, step):
            yield first, self.read(first, min(first + step, self.rows))


def _encoded(values: Array, dtype: str) -> NDArray[Any]:
    if dtype != "BF16":
        return values.astype(_STORED[dtype])
    bits = np.asarray(values, dtype="<f4").view("<u4")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to the nearest, ties to even
    return np.asarray(rounded >> 16, dtype="<u2")


def _decoded(raw: NDArray[Any], dtype: str) -> Array:
    if dtype == "BF16":  # the upper half of a float32
        wide = raw.astype("<u4")
        wide <<= 16
        return wide.view("<f4")
    if dtype.startswith("F8"):
        values: Array = _float8(dtype)[raw]
        return values
    with np.errstate(over="ignore"):
        return raw.astype(np.float32, copy=False)


def _float8(dtype: str) -> Array:
    """The 256 values of an eight-bit float (Micikevicius et al., 2022, arXiv:2209.05433, table 1)."""
    bits = 3 if dtype == "F8_E4M3" else 2
    bias = 7 if dtype == "F8_E4M3" else 15
    codes = np.arange(256)
    exponent, fraction = (codes & 0x7F) >> bits, (codes & ((1 << bits) - 1)) / (1 << bits)
    size = np.where(exponent, (1 + fraction) * 2.0 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    if dtype == "F8_E4M3":  # no infinity, and one NaN
        size[codes & 0x7F == 0x7F] = np.nan
    else:
        size[(exponent == 31) & (fraction == 0)] = np.inf
        size[(exponent == 31) & (fraction > 0)] = np.nan
    return np.where(codes >> 7, -size, size).astype(np.float32)


@dataclass(frozen=True)
class RowStatistics:
    """Of each row of a matrix: norm, largest absolute value (NaN where there is a NaN), and direction."""

    norms: Array
    peaks: Array
    codes: NDArray[np.int64]
    """(rows, grids): rows with the same code in any grid point the same way (cosine above about 0.999)."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder (``model.safetensors``, its shards, or ``adapter_model.safetensors``)."""

    folder: Path
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, folder: Path) -> Weights | None:
        """Read the headers; None when the folder holds no weights.

        Raises:
            ModelError: a file is damaged, or a shard is missing. Pickled: there are weights, but as pickles.
        """
        index = folder / "model.safetensors.index.json"
        files = [folder / name for name in _shards(index)] if index.is_file() else _single(folder)
        if not files:
            pickles = sorted(p.name for p in (*folder.glob("*model*.bin"), *folder.glob("*model*.pt*")))
            if pickles:
                raise Pickled(
                    f"{folder / pickles[0]} is a pickle, which can run code and is not loaded; "
                    "save the model as safetensors"
                )
            return None
        return cls(folder, {one.name: one for file in files for one in _header(file)})

    @cached_property
    def embedding(self) -> Tensor | None:
        """The input embeddings, (rows, D)."""
        return self._named(EMBEDDINGS)

    @cached_property
    def head(self) -> Tensor | None:
        """The output matrix, (rows, D); None where the files have none, as when it is tied."""
        return self._named(HEADS)

    @property
    def embedding_rows(self) -> int | None:
        return self.embedding.rows if self.embedding else None

    @property
    def head_rows(self) -> int | None:
        """Logits: rows of the head, or of the embeddings where they are its weights too."""
        return self.head.rows if self.head else self.embedding_rows

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in {one.file for one in self.tensors.values()})

    def statistics(self, matrix: Tensor) -> RowStatistics:
        """Of the rows of one of the two matrices; computed once."""
        if matrix.name not in self._statistics:
            self._statistics[matrix.name] = row_statistics(matrix)
        return self._statistics[matrix.name]

    @cached_property
    def _statistics(self) -> dict[str, RowStatistics]:
        return {}

    def _named(self, endings: tuple[str, ...]) -> Tensor | None:
        for ending in endings:
            for name, tensor in self.tensors.items():
                plain = name.replace(".modules_to_save.default", "").replace(".base_layer", "")
                if (plain == ending or plain.endswith("." + ending)) and len(tensor.shape) == 2:
                    return tensor
        return None


def row_statistics(tensor: Tensor) -> RowStatistics:
    """One pass over a matrix, (rows, D).

    The codes of a row are the cells into which ten fixed random projections of it, scaled to length √D,
    fall in four grids of width 0.1, each moved by a quarter. Of 150,000 unrelated rows two share a cell
    with probability below 1e-4 (0.04^10 for a pair).
    """
    norms, peaks = np.empty(tensor.rows, np.float32), np.empty(tensor.rows, np.float32)
    codes = np.empty((tensor.rows, GRIDS), np.int64)
    directions = np.random.default_rng(0).standard_normal((tensor.width, PROJECTIONS)).astype(np.float32)
    mixing = np.random.default_rng(1).integers(1, 2**62, PROJECTIONS) | 1
    for first, rows in tensor.chunks():
        last = first + len(rows)
        with np.errstate(all="ignore"):
            norms[first:last] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            peaks[first:last] = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))
            at = np.nan_to_num(rows @ directions / np.maximum(norms[first:last, None], 1e-30) / WIDTH)
        for grid in range(GRIDS):
            codes[first:last, grid] = np.floor(at + grid / GRIDS).astype(np.int64) @ mixing
    return RowStatistics(norms, peaks, codes)


def _single(folder: Path) -> list[Path]:
    found = [folder / name for name in ("model.safetensors", "adapter_model.safetensors")]
    return [path for path in found if path.is_file()][:1]


def _shards(index: Path) -> list[str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted({Path(name).name for name in names})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is not an index of weights: {type(error).__name__}: {error}") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ModelError(
            f"{index.parent} lacks {len(missing)} of {len(names)} files of weights, such as {missing[0]}"
        )
    return names


def _header(file: Path) -> Iterator[Tensor]:
    """The tensors of a file, checked against its length."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER):
                raise ModelError(
                    f"{file} is cut or no safetensors file: its header takes {length + 8} of {size} bytes"
                )
            header = json.loads(stream.read(length))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{file}: its header is a {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        tensor, end = _tensor(file, name, entry, 8 + length)
        if end > size:
            raise ModelError(
                f"{file} is cut: tensor {name} ends at byte {end} of {size}; copy the file again"
            )
        yield tensor


def _tensor(file: Path, name: str, entry: Any, body: int) -> tuple[Tensor, int]:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, start, end)) and isinstance(dtype, str)
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole or start > end:
        raise ModelError(f"{file}: the header's entry of tensor {name!r} is broken")
    if dtype in _STORED and math.prod(shape) * _STORED[dtype].itemsize != end - start:
        raise ModelError(
            f"{file}: tensor {name!r} has {end - start} bytes, which {dtype} {list(shape)} does not take"
        )
    return Tensor(name, file, dtype, shape, body + start), body + end
