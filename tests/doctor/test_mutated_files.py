"""Rollout files with damage of every kind: no crash, no good line lost, every unreadable one reported."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from holdtrue.doctor.rollouts import examine
from holdtrue.doctor.sources import read_rollouts
from holdtrue.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"prompt": "2 + 2?", "completion": "4", "reward": 1.0, "step": 1},
    {"input": "Sing.", "output": "la la la <|im_end|>", "score": 0.5, "step": 2},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"prompt": "Zoom.", "completion": "<tool_call>{}</tool_call> na na na", "completion_ids": [1, 2, 3]},
    {
        "request": {"messages": [{"role": "user", "content": "?"}]},
        "response": {"choices": [{"message": {"content": "!"}}]},
    },
    {"prompt": "a", "outputs": [{"text": "b", "token_ids": [1], "finish_reason": "length"}]},
]
NASTY = [
    b"\x00",
    b"\xff\xfe",
    b"{",
    b"}",
    b'"',
    b"\\u",
    b"\n",
    b"[" * 200,
    b"NaN",
    b"1e999",
    b"null",
    b"\xed\xa0\x80",
]


def damaged(line: bytes, draw: random.Random) -> bytes:
    """A line with one to four changes."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(line) + 1)
        how = draw.randrange(5)
        if how == 0:
            line = line[:at] + draw.choice(NASTY).replace(b"\n", b" ") + line[at:]
        elif how == 1:
            line = line[:at] + line[at + draw.randint(1, 9) :]
        elif how == 2:
            line = (
                line[:at]
                + bytes([draw.randrange(256)]).replace(b"\n", b" ").replace(b"\r", b" ")
                + line[at + 1 :]
            )
        elif how == 3:
            line = line[:at]
        else:
            line = line[:at] + line[: draw.randint(0, 20)] + line[at:]
    return line


def check(seed: int, folder: Path) -> None:
    """One mutated file, read and examined."""
    draw = random.Random(seed)
    lines, good = [], set()
    for i in range(draw.randint(1, 8)):
        line = json.dumps({**draw.choice(ROWS), "mark": f"row-{i}"}).encode()
        if draw.random() < 0.5:
            line = damaged(line, draw)
        else:
            good.add(f"row-{i}")
        lines.append(line)
    data = b"\n".join(lines) + b"\n"
    packed = draw.random() < 0.2
    if packed:
        data = gzip.compress(data, mtime=0)
        if draw.random() < 0.5:
            data, good = data[: draw.randrange(len(data))], set()
    file = folder / f"a.jsonl{'.gz' if packed else ''}"
    file.write_bytes(data)
    dump = None
    with contextlib.suppress(DataError):
        dump = read_rollouts([str(file)])
    if dump is None:
        assert not good, seed
        return
    assert {rollout.meta.get("mark") for rollout in dump.rollouts} >= good, seed
    assert len(dump.rollouts) + dump.unreadable.total() == dump.count, seed
    if not packed:
        assert dump.count >= sum(bool(line.strip()) for line in lines), seed
    json.dumps(examine(dump.rollouts, indices=dump.indices).as_json(), allow_nan=False)


def test_mutated_files_bring_nothing_down(tmp_path):
    for seed in range(300):
        check(seed, tmp_path)


@pytest.mark.slow
def test_ten_thousand_mutated_files_bring_nothing_down(tmp_path):
    for seed in range(10_000):
        check(seed, tmp_path)
