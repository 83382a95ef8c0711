"""States of conversations, computed once with a frozen backbone and kept for every head fitted on them.

    <key>.safetensors     answers (N, D), and where a gate reads them prompts (N, D), float32

The key is the SHA-256 of the backbone's weights (not the head's), its precision, and the token ids of every
conversation in order. Template, tokenizer and truncation make the ids, so a change in any of them that
changes what the model reads, and no other, is another key. The file also holds the hash of its numbers:
one that does not agree is computed again, and that is said.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdtrue.reward.model import RewardModel
from holdtrue.rundir import disk_errors
from holdtrue.tokens.tree import Tree

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class States:
    """``answers`` (N, D) and ``prompts`` (N, D) or ``None``, float32 on the CPU, in the order of the trees.

    ``origin`` is ``computed``, ``read`` from the cache, or ``computed: `` and what was wrong with the cache.
    """

    answers: Tensor
    prompts: Tensor | None
    origin: str


class StateCache:
    """A folder of states of one model.

    Args:
        model: its backbone must not change while the cache is in use.
        folder: made when it is needed; may be shared by models and data sets.
        tokens_per_pass: unique tokens in one forward pass; bounds memory only.
    """

    def __init__(self, model: RewardModel, folder: Path, tokens_per_pass: int) -> None:
        self.model = model
        self.folder = folder
        self.tokens_per_pass = tokens_per_pass
        self._identity = _backbone_hash(model)

    def states(self, trees: Sequence[Tree], *, prompts: bool = False) -> States:
        """States of the trees' answers, and on request of their prompts.

        Raises:
            ResourceError, DataError: the folder cannot be written.
        """
        key = self._key(trees, prompts)
        file = self.folder / f"{key[:32]}.safetensors"
        origin = "computed"
        if file.exists():
            try:
                return _read(file, key)
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                origin = f"computed: {file} is broken ({' '.join(str(error).split())[:100]})"
                _log.warning(f"{file} is broken, its states are computed again")
        found = States(*self._compute(trees, prompts), origin)
        _write(file, key, found)
        return found

    def _key(self, trees: Sequence[Tree], prompts: bool) -> str:
        digest = hashlib.sha256(f"{self._identity} {self.model.bf16} {prompts}".encode())
        for tree in trees:
            for k, answer in enumerate(tree.answers):
                asked = int(tree.asked[k]) if prompts and tree.asked is not None else 0
                digest.update(f" {len(tree.prompt) + len(answer)} {asked} ".encode())
                digest.update(tree.prompt.tobytes() + answer.tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def _compute(self, trees: Sequence[Tree], prompts: bool) -> tuple[Tensor, Tensor | None]:
        model = self.model
        width = model.inner.config.get_text_config().hidden_size
        places, count = [], 0
        for tree in trees:
            places.append(range(count, count + len(tree.answers)))
            count += len(tree.answers)
        answers = torch.zeros(count, width)
        asked = torch.zeros(count, width) if prompts else None
        for batch in model.pack(trees, self.tokens_per_pass):
            rows = torch.tensor([row for i in batch for row in places[i]])
            own, of_prompts = model.states(model.batch([trees[i] for i in batch]), prompts=prompts)
            answers[rows] = own.cpu()
            if asked is not None and of_prompts is not None:
                asked[rows] = of_prompts.cpu()
        return answers, asked


def _backbone_hash(model: RewardModel) -> str:
    digest = hashlib.sha256(type(model.backbone).__name__.encode())
    for name, value in sorted(model.backbone.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # as bytes, since numpy has no bfloat16
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _contents(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()


def _write(file: Path, key: str, states: States) -> None:
    tensors = {"answers": states.answers.contiguous()}
    if states.prompts is not None:
        tensors["prompts"] = states.prompts.contiguous()
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, temporary, metadata={"key": key, "sha256": _contents(tensors)})
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)


def _read(file: Path, key: str) -> States:
    with safe_open(file, "pt") as opened:
        noted: dict[str, Any] = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if noted.get("key") != key:
        raise ValueError("it belongs to something else")
    if noted.get("sha256") != _contents(tensors):
        raise ValueError("its numbers have changed")
    return States(tensors["answers"], tensors.get("prompts"), "read")
