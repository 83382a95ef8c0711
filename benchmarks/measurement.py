"""How the benchmarks measure: CPU seconds of alternating rounds on one thread, medians, and tables.

CPU seconds (``time.process_time``) rather than wall time, because a shared machine gives other work the
wall time. One thread for every system. Import this module before torch: it sets the thread count.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import torch
from rich.console import Console
from rich.table import Table

torch.set_num_threads(1)


@dataclass(frozen=True)
class Sample:
    """One timed run: seconds of CPU and of wall time, and what else the system counted."""

    cpu: float
    wall: float
    padded_tokens: int | None = None


@dataclass
class Stopwatch:
    """Times a block; waits for the GPU where there is one."""

    cpu: float = 0.0
    wall: float = 0.0

    def __enter__(self) -> Stopwatch:
        _wait()
        self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        _wait()
        self.cpu = time.process_time() - self._start[0]
        self.wall = time.perf_counter() - self._start[1]


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def alternate(systems: Mapping[str, Callable[[int], Sample]], rounds: int) -> dict[str, list[Sample]]:
    """A B A B ...: each system once a round, ``run(seed)`` with the round's number, nothing discarded."""
    samples: dict[str, list[Sample]] = {name: [] for name in systems}
    for seed in range(rounds):
        for name, run in systems.items():
            samples[name].append(run(seed))
    return samples


def middle(samples: Sequence[Sample], unit: str = "cpu") -> float:
    """Median seconds."""
    return float(median(getattr(sample, unit) for sample in samples))


def ratio(samples: Sequence[Sample], others: Sequence[Sample], unit: str = "cpu") -> float:
    """Median over the rounds of how many times the others' seconds were taken."""
    pairs = zip(samples, others, strict=True)
    return float(median(getattr(one, unit) / getattr(other, unit) for one, other in pairs))


def linear_rate(width: int = 512, mlp: int = 1408, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP per CPU second of one linear layer on 2048 rows: what the machine can do at best.

    The median of nine timings of ten calls each. The FLOP floor of a job is its FLOPs over this rate.
    """
    x, w = torch.randn(2048, width, dtype=dtype), torch.randn(mlp, width, dtype=dtype)
    seconds = []
    with torch.inference_mode():
        torch.nn.functional.linear(x, w)
        for _ in range(9):
            start = time.process_time()
            for _ in range(10):
                torch.nn.functional.linear(x, w)
            seconds.append(time.process_time() - start)
    return 10 * 2 * 2048 * width * mlp / median(seconds)


def peak_memory() -> int:
    """Highest resident memory of this process in bytes (VmHWM; unlike ru_maxrss not the parent's)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status: peak memory needs Linux")


def machine() -> dict[str, Any]:
    """What was measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def show(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if isinstance(rows[0].get(column), str) else "right")
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    Console(width=max(140, Console().width)).print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def write(path: str | None, result: Mapping[str, Any]) -> None:
    """Raw numbers as JSON."""
    if path is not None:
        Path(path).write_text(json.dumps(result, indent=1, default=asdict) + "\n", encoding="utf-8")
