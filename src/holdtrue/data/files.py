"""Files as rows: JSONL, gzip, JSON arrays, Parquet and hub data sets, each row with its place.

A fault is a row of its own (:attr:`RawRow.fault`), so that one bad line, or a file cut short, never
takes the good lines with it. JSONL is streamed; only a file that is one JSON array is held in memory.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from holdtrue.data.fields import BadRow, show
from holdtrue.errors import DataError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz", ".parquet")
HUB = "hub:"
MAX_DEPTH = 64
"""Deepest nesting of a row; far beyond any data set, far below where writing it again would fail."""
MAX_HELD = 1 << 28
"""Longest line, and largest file read as one JSON array, in bytes; a longer line is skipped, not loaded."""

_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
SURROGATES = "lone surrogates replaced"
NOT_A_NUMBER = "NaN read as null"


@dataclass(slots=True)
class RawRow:
    """A row as read: its ``value``, or the ``fault`` because of which there is none.

    ``line`` counts from 1 (rows for Parquet and the hub), ``offset`` is the line's first byte in the
    file, or in the decompressed stream.
    """

    line: int
    offset: int | None
    value: dict[str, Any] | None = None
    fault: BadRow | None = None
    text: str = ""
    repairs: frozenset[str] = frozenset()


class Digest(Protocol):
    """What is fed the bytes of a file as they are read (a hashlib object)."""

    def update(self, data: bytes, /) -> None: ...


def resources(paths: Sequence[str]) -> list[str]:
    """Files and hub names behind the paths; a directory gives all its data files, sorted.

    Raises:
        DataError: a path does not exist, or a directory holds no data file.
    """
    found: list[str] = []
    for path in map(str, paths):
        if path.startswith(HUB):
            found.append(path)
        elif Path(path).is_dir():
            inside = [
                file
                for file in sorted(Path(path).rglob("*"))
                if file.name.endswith(SUFFIXES)
                and file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            ]
            if not inside:
                raise DataError(f"directory {path} holds no data file ({', '.join(SUFFIXES)})")
            found += map(str, inside)
        elif Path(path).exists():
            found.append(path)
        else:
            raise DataError(f"data file {path} does not exist")
    return found


def rows(resource: str, digest: Digest, *, finite: bool = True) -> Iterator[RawRow]:
    """Rows of a file or of a hub data set; ``digest`` is fed the file's bytes.

    With ``finite=False`` the words NaN, Infinity and -Infinity of Python's JSON are read as null instead of
    costing the row: in what an engine wrote they are a finding, not a fault of the file.
    """
    if resource.startswith(HUB):
        yield from _hub_rows(resource)
        return
    try:
        with open(resource, "rb") as file:
            head = file.peek(4)[:4]
            pieces = _chunks(file, digest)
            if head == b"PAR1":
                for _ in pieces:  # Parquet is read out of order, so it is hashed first
                    pass
                yield from _parquet_rows(resource)
            else:
                yield from _json_rows(_gunzip(pieces) if head[:2] == b"\x1f\x8b" else pieces, finite)
    except OSError as error:
        raise DataError(f"data file {resource} cannot be read: {error.strerror or error}") from error


def _chunks(file: Any, digest: Digest) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        yield chunk


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompressed pieces. A damaged stream gives all that precedes the damage, then raises BadRow."""
    stream, members = None, 0
    for chunk in chunks:
        while chunk:
            if stream is None:
                chunk = chunk.lstrip(b"\0") if members else chunk  # padding between members
                if not chunk:
                    break
                stream = zlib.decompressobj(wbits=31)
            before = stream.copy()
            try:
                yield stream.decompress(chunk)
            except zlib.error as error:
                yield from _salvage(before, chunk)
                raise BadRow("broken gzip", str(error)) from error
            chunk = stream.unused_data
            if stream.eof:
                stream, members = None, members + 1
    if stream is not None:
        yield stream.flush()
        raise BadRow("truncated gzip", "the file ends inside the compressed data")


def _salvage(stream: Any, chunk: bytes) -> Iterator[bytes]:
    """What of a chunk decompresses before the byte at which it fails."""
    for i in range(len(chunk)):
        try:
            yield stream.decompress(chunk[i : i + 1])
        except zlib.error:
            return


@dataclass(slots=True)
class _Line:
    number: int
    offset: int
    data: bytes
    ended: bool = True
    fault: BadRow | None = None


def _lines(pieces: Iterable[bytes]) -> Iterator[_Line]:
    """Lines without their newline; one that is too long, and a broken stream, come as faults."""
    number, offset = 1, 0
    held: list[bytes] = []  # the beginning of a line, piece by piece
    size = 0  # of that beginning, with what of it was thrown away
    fault = None
    stream = iter(pieces)
    while True:
        try:
            piece = next(stream, None)
        except BadRow as error:
            fault, piece = error, None
        if piece is None:
            break
        *whole, rest = piece.split(b"\n")
        for data in whole:
            size += len(data)
            too_long = _too_long() if size > MAX_HELD else None
            yield _Line(number, offset, b"".join([*held, data]), fault=too_long)
            number, offset, size = number + 1, offset + size + 1, 0
            held.clear()
        size += len(rest)
        held = [*held[:1], rest[:200]] if size > MAX_HELD else [*held, rest]
    if size:
        too_long = _too_long() if size > MAX_HELD else None
        yield _Line(number, offset, b"".join(held), ended=False, fault=too_long)
        number, offset = number + 1, offset + size
    if fault is not None:
        yield _Line(number, offset, b"", fault=fault)


def _too_long() -> BadRow:
    return BadRow("line too long", f"more than {MAX_HELD} bytes")


def _json_rows(pieces: Iterable[bytes], finite: bool) -> Iterator[RawRow]:
    lines = _lines(pieces)
    first = next((line for line in lines if line.fault or not _blank(line.data)), None)
    if first is None:
        return
    lines = chain([first], lines)
    if first.data.removeprefix(_BOM).lstrip().startswith(b"["):
        lines = _array_or(lines)
    for line in lines:
        if line.fault is None and _blank(line.data):
            continue
        row = RawRow(line.number, line.offset)
        try:
            if line.fault is not None:
                raise line.fault
            row.value, row.repairs = decode(line.data, line.ended, finite)
        except BadRow as fault:
            row.fault = fault
            row.text = line.data[:800].decode("utf-8", "replace")[:200]
        yield row


def _blank(data: bytes) -> bool:
    return not data.removeprefix(_BOM).strip()


def _array_or(lines: Iterator[_Line]) -> Iterator[_Line]:
    """The elements of a file that is one JSON array, as if each had its line; else the lines as they are."""
    held: list[_Line] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line.data) + 1
        if size > MAX_HELD:
            break
    elements = _elements(held) if size <= MAX_HELD else None
    return chain(held, lines) if elements is None else iter(elements)


def _elements(lines: Sequence[_Line]) -> list[_Line] | None:
    if any(line.fault is not None for line in lines):
        return None
    text = b"\n".join(line.data for line in lines).decode("utf-8", "surrogateescape")
    # Here only the bounds of the elements matter; each is then decoded like a line.
    decoder = json.JSONDecoder(parse_int=float, strict=False)
    blank = re.compile(r"[ \t\r\n]*")
    found: list[_Line] = []
    number, offset, last = lines[0].number, lines[0].offset, 0
    position = text.index("[") + 1
    while True:
        start = _after(blank, text, position)
        if text[start : start + 1] == "]" and not found:
            end = start
        else:
            try:
                _, end = decoder.raw_decode(text, start)
            except (ValueError, RecursionError):
                return None
            number += text.count("\n", last, start)
            offset += len(text[last:start].encode("utf-8", "surrogateescape"))
            found.append(_Line(number, offset, text[start:end].encode("utf-8", "surrogateescape")))
            last, end = start, _after(blank, text, end)
        if text[end : end + 1] == "]":
            return found if _after(blank, text, end + 1) == len(text) else None
        if text[end : end + 1] != ",":
            return None
        position = end + 1


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def decode(data: bytes, ended: bool = True, finite: bool = True) -> tuple[dict[str, Any], frozenset[str]]:
    """The JSON object of a line and what had to be repaired in it.

    Refused besides what JSON refuses: duplicate keys, NaN and infinities, numbers too large for a
    float, nesting beyond 64 levels, and anything that is not an object.

    Raises:
        BadRow: with the reason. ``ended`` (the line had its newline) tells a cut line from a broken one;
        unless ``finite``, NaN and infinities are null.
    """
    try:
        text = data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(
            "invalid UTF-8", f"byte 0x{error.object[error.start]:02x} at byte {error.start} of the line"
        ) from None
    try:
        value = (_DECODER if finite else _LENIENT).decode(text)
    except json.JSONDecodeError as error:
        if "\0" in text:
            raise BadRow("NUL byte", f"at character {text.index(chr(0))} of the line") from None
        hint = "; nor is the file one whole JSON array" if text.lstrip().startswith("[") else ""
        reason = "not JSON" if ended else "truncated last line"
        raise BadRow(reason, f"{error.msg} at character {error.pos} of the line{hint}") from None
    except RecursionError:
        raise BadRow("nested too deeply", f"more than {MAX_DEPTH} levels") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise BadRow("number too large", str(error).partition(";")[0]) from None
    if not isinstance(value, dict):
        raise BadRow("not an object", f"the line holds {show(value)}, expected an object with columns")
    if "\\ud" not in text and "\\uD" not in text and text.count("[") + text.count("{") <= MAX_DEPTH:
        return value, frozenset()
    repairs: set[str] = set()
    return _scrub(value, 1, repairs), frozenset(repairs)


def _scrub(value: Any, depth: int, repairs: set[str]) -> Any:
    """The value as plain JSON: lone surrogates replaced, NaN as null, dates and the like as text."""
    if depth > MAX_DEPTH:
        raise BadRow("nested too deeply", f"more than {MAX_DEPTH} levels")
    if isinstance(value, str):
        repaired = _LONE_SURROGATE.sub("\ufffd", value)
        if repaired != value:
            repairs.add(SURROGATES)
        return repaired
    if isinstance(value, (list, tuple)):
        return [_scrub(item, depth + 1, repairs) for item in value]
    if isinstance(value, dict):
        return _unique(
            [
                (_scrub(str(key), depth, repairs), _scrub(item, depth + 1, repairs))
                for key, item in value.items()
            ]
        )
    if isinstance(value, float) and value != value:
        repairs.add(NOT_A_NUMBER)
        return None
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise BadRow("number not finite", f"{value}")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        key, times = Counter(key for key, _ in pairs).most_common(1)[0]
        raise BadRow("duplicate key", f"{show(key)} occurs {times} times")
    return result


def _no_constant(name: str) -> Any:
    raise BadRow("number not finite", f"{name} is not JSON")


def _finite(digits: str) -> float:
    result = float(digits)
    if result in (float("inf"), float("-inf")):
        raise BadRow("number too large", f"{digits[:40]} does not fit a float")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
_LENIENT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=lambda name: None, parse_float=_finite)


def _plain(line: int, value: dict[str, Any]) -> RawRow:
    repairs: set[str] = set()
    try:
        scrubbed = _scrub(value, 1, repairs)
    except BadRow as fault:
        return RawRow(line, None, fault=fault, text=show(value))
    return RawRow(line, None, scrubbed, repairs=frozenset(repairs))


def _parquet_rows(path: str) -> Iterator[RawRow]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"reading {path} needs pyarrow: pip install 'holdtrue[hub]'") from None
    line = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from _batch_rows(batch, line)
                line += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        yield RawRow(line + 1, None, fault=BadRow("broken Parquet", str(error).splitlines()[0]))


def _batch_rows(batch: RecordBatch, line: int) -> Iterator[RawRow]:
    try:
        for i, value in enumerate(batch.to_pylist(), start=1):
            yield _plain(line + i, value)
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                (value,) = batch.slice(i, 1).to_pylist()
                yield _plain(line + i + 1, value)
            except UnicodeDecodeError as error:
                yield RawRow(line + i + 1, None, fault=BadRow("invalid UTF-8", str(error)))


def _hub_rows(resource: str) -> Iterator[RawRow]:
    """Rows of ``hub:owner/name[:split]`` (split ``train`` by default), streamed."""
    name, _, split = resource.removeprefix(HUB).partition(":")
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"reading {resource} needs datasets: pip install 'holdtrue[hub]'") from None
    try:
        data = load_dataset(name, split=split or "train", streaming=True)
    except Exception as error:  # datasets lets through whatever its network stack raises
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"hub data set {name} cannot be loaded: {type(error).__name__}: {first}") from error
    line = 0
    try:
        for line, value in enumerate(data, start=1):
            yield _plain(line, value)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        yield RawRow(line + 1, None, fault=BadRow("broken stream", f"{type(error).__name__}: {first}"))
