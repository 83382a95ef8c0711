"""Damage many small data files in known ways and count what the reader loses.

    python benchmarks/fuzz_reader.py --files 10000 --seed 0

Every file is made of good rows, of which some are damaged. It is known which lines stayed good; they
must all come back unchanged. Lines that are certainly bad must be reported at their line and byte
offset, and every other line must be either kept or reported. Exit code 1 when any of this fails.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdtrue.data.formats import classes
from holdtrue.data.reader import Reader

Damage = Callable[[random.Random, bytes], bytes]

ANSWERS = ["chosen", "completions", "completion", "messages", "summaries", "human_ref_A", "response_a"]
ANSWERS += ["response_1", "response1", "response", "response_A", "bon_best", "label"]
"""Columns that hold the answers: a row cannot do without the first of them that it has."""
SAMPLES = [row for found in classes() for row in found.sample if not set(ANSWERS).isdisjoint(row)]


@dataclass
class Line:
    """A line of a file: ``row`` when it must be kept, ``bad`` when it must be reported, else unknown."""

    data: bytes
    row: dict[str, Any] | None = None
    bad: bool = False


@dataclass
class Tally:
    """What happened over all files."""

    files: int = 0
    lines: int = 0
    good: int = 0
    bad: int = 0
    crashes: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    unreported: int = 0
    misplaced: int = 0
    uncounted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        """True when nothing went wrong."""
        return not (self.crashes or self.lost or self.unreported or self.misplaced or self.uncounted)


def good_row(rng: random.Random, number: int) -> dict[str, Any]:
    """A valid row of one of the layouts; ``id`` makes it unique."""

    def words() -> str:
        return " ".join(rng.choices(("tea", "Ünï", "“so”", "7", "😀", "x\ny", "\\ud", "{[", "naïve"), k=5))

    one, other = f"{words()} A{number}", f"{words()} B{number}"
    user = {"role": "user", "content": words()}
    layouts: list[dict[str, Any]] = [
        {"prompt": words(), "chosen": one, "rejected": other, "margin": rng.random()},
        {"chosen": f"\n\nHuman: hi\n\nAssistant: {one}", "rejected": f"\n\nHuman: hi\n\nAssistant: {other}"},
        {
            "prompt": [user],
            "chosen": [{"role": "assistant", "content": one}],
            "rejected": [{"role": "assistant", "content": other}],
            "label": rng.choice((0.5, 1, True, "tie")),
        },
        {
            "chosen": [user, {"role": "assistant", "content": one}],
            "rejected": [user, {"role": "assistant", "content": other}],
        },
        {"prompt": words(), "completions": [one, other, one], "ratings": [1, None, 0.5]},
        {"prompt": words(), "completion": one},
        *rng.sample(SAMPLES, 3),
    ]
    return {**rng.choice(layouts), "id": number}


def encode(rng: random.Random, row: dict[str, Any]) -> bytes:
    """The row as a line, sometimes with every character escaped."""
    return json.dumps(row, ensure_ascii=rng.random() < 0.5).encode()


def cut(rng: random.Random, line: bytes) -> bytes:
    return line[: rng.randrange(1, len(line))]


def garbage(rng: random.Random, line: bytes) -> bytes:
    return rng.choice((b"[", b"[1, 2", b"null", b"17", b'"text"', b"{]", b"<html>", b"[{}]]")) + b" x" * 3


def bad_bytes(rng: random.Random, line: bytes) -> bytes:
    at = rng.randrange(len(line))
    return line[:at] + rng.choice((b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf5\x80")) + line[at:]


def nul(rng: random.Random, line: bytes) -> bytes:
    at = rng.randrange(len(line))
    return line[:at] + b"\0" * rng.randrange(1, 5) + line[at:]


def duplicate_key(rng: random.Random, line: bytes) -> bytes:
    return b'{"id": -1, ' + line[1:]


def deep(rng: random.Random, line: bytes) -> bytes:
    depth = rng.choice((80, 900, 2000, 100_000))
    return b'{"deep": ' + b"[" * depth + b"]" * depth + b", " + line[1:]


def number(rng: random.Random, line: bytes) -> bytes:
    value = rng.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000))
    return b'{"n": ' + value + b", " + line[1:]


def null_field(rng: random.Random, line: bytes) -> bytes:
    row = json.loads(line)
    row[next(key for key in ANSWERS if key in row)] = None
    return json.dumps(row).encode()


def missing_field(rng: random.Random, line: bytes) -> bytes:
    row = json.loads(line)
    del row[next(key for key in ANSWERS if key in row)]
    return json.dumps(row).encode()


def wrong_type(rng: random.Random, line: bytes) -> bytes:
    row = json.loads(line)
    name = next(key for key in ANSWERS if key in row)
    row[name] = rng.choice((3, True, {"role": "assistant"}, [[]], [None], [{"role": 1, "content": "x"}]))
    return json.dumps(row).encode()


def identical(rng: random.Random, line: bytes) -> bytes:
    return json.dumps({"prompt": "p", "chosen": "same", "rejected": "same"}).encode()


def empty_prompt(rng: random.Random, line: bytes) -> bytes:
    return json.dumps({"prompt": rng.choice(("", " \n", [])), "chosen": "a", "rejected": "b"}).encode()


CERTAIN: tuple[Damage, ...] = (
    cut,
    garbage,
    bad_bytes,
    nul,
    duplicate_key,
    deep,
    number,
    null_field,
    missing_field,
    wrong_type,
    identical,
    empty_prompt,
)


def flip(rng: random.Random, line: bytes) -> bytes:
    data = bytearray(line)
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def delete(rng: random.Random, line: bytes) -> bytes:
    start = rng.randrange(len(line))
    return line[:start] + line[start + rng.randrange(1, 9) :]


def surrogate(rng: random.Random, line: bytes) -> bytes:
    return line.replace(b'": "', b'": "\\ud8' + rng.choice((b"00", b"3D", b"ff")), 1)


def long(rng: random.Random, line: bytes) -> bytes:
    return line.replace(b" A", b" " + b"long " * 2400 + b"A")


UNCERTAIN: tuple[Damage, ...] = (flip, delete, surrogate, long)


def make(rng: random.Random) -> list[Line]:
    """Lines of a file: good ones, damaged ones, merged ones and blank ones."""
    lines: list[Line] = []
    for i in range(rng.randrange(1, 9)):
        row = good_row(rng, i)
        data = encode(rng, row)
        chance = rng.random()
        if chance < 0.5:
            lines.append(Line(data, row))
        elif chance < 0.75:
            lines.append(Line(rng.choice(CERTAIN)(rng, data), bad=True))
        elif chance < 0.9:
            damaged = rng.choice(UNCERTAIN)(rng, data)
            lines += [Line(part) for part in damaged.split(b"\n")]
        elif chance < 0.95:
            lines.append(Line(data + encode(rng, good_row(rng, 100 + i)), bad=True))
        else:
            lines.append(Line(rng.choice((b"", b"  ", b"\t"))))
    if rng.random() < 0.1:  # an array on lines of its own is still an array, a good line is still good
        lines = [Line(b"[", bad=True), *lines]
    return lines


def assemble(rng: random.Random, lines: list[Line]) -> bytes:
    """The file's bytes, sometimes with BOM, CRLF, without the last newline, or cut short."""
    end = rng.choice((b"\n", b"\n", b"\r\n"))
    data = (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + end.join(line.data for line in lines)
    chance = rng.random()
    if chance < 0.6:
        return data + end
    if chance < 0.8 or len(lines[-1].data) < 3:
        return data
    last = lines[-1]
    lines[-1] = Line(last.data[: rng.randrange(1, len(last.data) - 1)], bad=last.row is not None)
    return data[: len(data) - len(last.data) + len(lines[-1].data)]


def compress(rng: random.Random, data: bytes, lines: list[Line]) -> tuple[bytes, bytes, bool]:
    """The file gzipped, perhaps cut short or with a bit flipped.

    Returns its bytes, what of ``data`` can be had from them, and whether they are whole.
    """
    packed = gzip.compress(data)
    chance = rng.random()
    if chance < 0.3:
        return packed, data, True
    if chance < 0.65:
        packed = packed[: rng.randrange(3, len(packed))]
    else:
        packed = packed[:10] + flip(rng, packed[10:])
    stream = zlib.decompressobj(wbits=31)
    left = b""
    try:
        for i in range(len(packed)):
            left += stream.decompress(packed[i : i + 1])
    except zlib.error:
        pass
    if stream.eof and left == data:  # the flipped bits mean nothing, or were flipped back
        return packed, data, True
    same = next((i for i, (a, b) in enumerate(zip(left, data, strict=False)) if a != b), len(left))
    at = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    for i, line in enumerate(lines):
        at += len(line.data)
        if at > same or at == same < len(left):
            lines[i] = Line(b"")  # not or not wholly in the file any more
        at += 2 if data[at : at + 1] == b"\r" else 1
    return packed, left[:same], False


def judge(tally: Tally, path: Path, rejected: Path, data: bytes, lines: list[Line], whole: bool) -> None:
    """Read one file and compare what came back with what is known of its lines."""
    rejected.unlink(missing_ok=True)
    reader = Reader([str(path)], rejected=rejected)
    try:
        kept = {group.source.line: group for group in reader if group.source}
    except Exception as error:
        tally.crashes[f"{type(error).__name__}: {error}"[:100]] += 1
        return
    report = reader.report
    tally.reasons.update(report.rejected)
    faults = [json.loads(line) for line in rejected.read_text().splitlines()] if rejected.exists() else []
    reported = {fault["line"]: fault for fault in faults}
    starts = [0]
    for part in data.split(b"\n"):
        starts.append(starts[-1] + len(part) + 1)
    array = bool(kept) and lines[0].data == b"[" and 1 not in reported
    for i, line in enumerate(lines, start=1):
        tally.lines += 1
        if line.row is not None:
            tally.good += 1
            tally.lost += i not in kept or kept[i].row != line.row
        elif line.bad and not array:
            tally.bad += 1
            tally.unreported += i not in reported
    for place in [(fault["line"], fault["offset"]) for fault in faults] + [
        (group.source.line, group.source.offset) for group in kept.values() if group.source
    ]:
        tally.misplaced += not array and place[1] != starts[min(place[0], len(starts)) - 1] and whole
    expected = sum(bool(part.removeprefix(b"\xef\xbb\xbf").strip()) for part in data.split(b"\n"))
    tally.unreported += not whole and not any("gzip" in reason for reason in report.rejected)
    tally.uncounted += report.rows != report.kept + report.rejected.total()
    tally.uncounted += whole and not array and report.rows != expected


def fuzz(files: int, seed: int) -> Tally:
    """Make, damage and read ``files`` files."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        path, rejected = Path(folder, "data.jsonl"), Path(folder, "rejected.jsonl")
        for i in range(files):
            rng = random.Random(f"{seed}:{i}")
            lines = make(rng)
            data = assemble(rng, lines)
            packed, left, whole = data, data, True
            if rng.random() < 0.3:
                packed, left, whole = compress(rng, data, lines)
            path.write_bytes(packed)
            tally.files += 1
            judge(tally, path, rejected, left, lines, whole)
    return tally


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    tally = fuzz(arguments.files, arguments.seed)
    print(f"{tally.files} files, {tally.lines} lines, {time.perf_counter() - start:.1f} s")
    print(f"crashes              {tally.crashes.total()}")
    print(f"good lines lost      {tally.lost} of {tally.good}")
    print(f"bad lines unreported {tally.unreported} of {tally.bad}")
    print(f"wrong line or offset {tally.misplaced}")
    print(f"rows unaccounted for {tally.uncounted}")
    for reason, count in tally.reasons.most_common():
        print(f"    {count:6d} {reason}")
    for crash, count in tally.crashes.most_common(10):
        print(f"    CRASH {count} {crash}")
    return 0 if tally.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
