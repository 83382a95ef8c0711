"""The model itself, run on the CPU: what it would say next. That loads all weights, so it is asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.weights import HEADS, Pickled, Weights
from holdtrue.errors import ResourceError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROOM = 1 << 30
"""Bytes kept free beside the weights, for torch, the tokenizer and the activations of ``LONGEST`` tokens."""
LONGEST = 2_048
"""Tokens that are read at a time, at most."""
_MEMORY, _CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True)
class Need:
    """How the weights are loaded: as ``dtype``, with the adapter's, into ``bytes``; ``available`` is what the
    machine has, None where it does not say.
    """

    dtype: str
    bytes: int
    available: int | None

    @classmethod
    def of(cls, subject: Subject) -> Need:
        """From the headers of the files. float32 stays; all else is bfloat16, which does not overflow.

        Raises:
            Missing: there are no weights, none that could be run, or not of a decoder.
            ResourceError: too little memory.
        """
        named = (subject.config.get("architectures") or [""])[0]
        if named and not named.endswith(_DECODERS):
            raise Missing(f"{named} is no causal language model")
        if subject.config.get("quantization_config"):
            raise Missing("the weights are packed (quantization_config), which is not run on a CPU")
        tensors = [*subject.weights.tensors.values()]
        if not tensors:
            raise Missing("the weights hold no tensor")
        largest = max(tensors, key=lambda one: math.prod(one.shape))
        if not largest.floating:
            raise Missing(f"{largest.name} is packed ({largest.dtype}), which is not run on a CPU")
        dtype = "float32" if largest.dtype in ("F32", "F64") else "bfloat16"
        saved = adapter_weights(subject)
        values = sum(math.prod(one.shape) for one in (*tensors, *(saved.tensors.values() if saved else ())))
        need = cls(dtype, values * (4 if dtype == "float32" else 2), available())
        if need.available is not None and need.bytes + ROOM > need.available:
            raise ResourceError(
                f"--forward needs {_size(need.bytes + ROOM)} of memory: {need}; "
                "run it on a larger machine, or leave it out"
            )
        return need

    def __str__(self) -> str:
        free = "" if self.available is None else f", {_size(self.available)} are available"
        return f"the weights take {_size(self.bytes)} as {self.dtype}{free}"


@dataclass(frozen=True)
class Forward:
    """A loaded model; ``adapted`` where the adapter's weights are in it."""

    model: PreTrainedModel
    adapted: bool

    @classmethod
    def of(cls, subject: Subject) -> Forward:
        """Load the weights from safetensors alone, without code that comes with the model.

        Raises:
            Missing: it is no decoder, or cannot be loaded. ResourceError: too little memory.
        """
        need = Need.of(subject)
        try:
            with quiet():
                return _load(subject, need.dtype)
        except (Missing, MemoryError):
            raise
        except Exception as error:  # of three libraries
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise Missing(f"the model cannot be loaded: {lines[0][:200]}") from error

    @property
    def rows(self) -> int:
        """Rows of the embedding: ids below it can be read."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def after(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Log-probabilities (V,) of what follows the ids. One text at a time: nothing is padded.

        Raises:
            Missing: an id has no row in the embedding.
        """
        import torch

        if max(ids) >= self.rows:
            raise Missing(f"the tokenizer writes id {max(ids)}, the embedding has {self.rows} rows")
        with torch.inference_mode():
            logits = self.model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1].float()
        return np.asarray(torch.log_softmax(logits, -1).numpy())


def longest(subject: Subject) -> int:
    """Tokens that can be read: ``LONGEST``, or as many as the model has positions."""
    config = subject.config
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    return min(LONGEST, positions) if isinstance(positions, int) else LONGEST


def adapter_weights(subject: Subject) -> Weights | None:
    """The tensors of the adapter; None without one, and for one that is still to be trained."""
    try:
        return Weights.of(subject.adapter) if subject.adapter is not None else None
    except Pickled as error:
        raise Missing(str(error)) from error


def available() -> int | None:
    """Bytes of memory that can be taken: MemAvailable of Linux, within what the container's limit leaves."""
    if not _MEMORY.is_file():
        return None
    lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit = _CONTAINER / "memory.max"
    most = limit.read_text().strip() if limit.is_file() else "max"
    return min(free, max(int(most) - _taken(), 0)) if most.isdigit() else free


def _taken() -> int:
    """Bytes the container holds, without the cached pages of files, which the kernel gives back."""
    held = int((_CONTAINER / "memory.current").read_text())
    parts = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
    return held - int(parts["active_file"]) - int(parts["inactive_file"])


def _load(subject: Subject, dtype: str) -> Forward:
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        subject.folder,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    tied = model.config.get_text_config().tie_word_embeddings
    missing = sorted(name for name in info["missing_keys"] if not (tied and name.endswith(HEADS)))
    if missing:
        raise Missing(f"{len(missing)} weights are not in the files, such as {missing[0]}")
    saved = adapter_weights(subject)
    if saved is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, subject.adapter)
    return Forward(model.eval(), saved is not None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars, and without peft's calls of what is deprecated there."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
