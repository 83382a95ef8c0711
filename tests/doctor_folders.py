"""Tiny model folders written by hand: safetensors from numpy arrays, configs as dictionaries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {
    "float32": "F32",
    "float16": "F16",
    "uint16": "BF16",
    "float64": "F64",
    "uint8": "F8_E4M3",
    "int8": "I8",
}


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], **types: str) -> Path:
    """A safetensors file; uint16 arrays are bfloat16, uint8 arrays float8."""
    header, body = {}, b""
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": types.get(name, TYPES[array.dtype.name]),
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32 values (cut, not rounded)."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def matrix(rows: int, width: int = 32, seed: int = 0) -> NDArray[np.float32]:
    """Random rows of norm about 0.11."""
    return np.random.default_rng(seed).normal(0, 0.02, (rows, width)).astype(np.float32)


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def adapter(path: Path, **values: Any) -> Path:
    path.mkdir(exist_ok=True)
    write_json(
        path / "adapter_config.json", {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"], **values}
    )
    return path


def noise(*ids: int) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for name in (EMBEDDING, HEAD):
            if name in values:
                values[name][list(ids)] *= 0.01

    return change
