"""States of token sequences at their last token, computed once with a frozen backbone and kept.

    <folder>/<backbone>/<sequences>.safetensors     keys (n, 32) uint8 and states (n, D) float32

A key is the SHA-256 of a sequence's ids. Template, tokenizer and truncation make the ids, so a change in any
of them that changes what the model reads, and no other, is another key. The folder's name is the hash of all
weights before the head, how they are pooled and the precision. Answers and prompts are sequences alike, and
one that was computed for ratings, comparisons or an earlier run is not computed again. Each file holds the
hash of its numbers: one that does not agree is left out, and that is said.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdtrue.reward.model import RewardModel, given
from holdtrue.rundir import disk_errors
from holdtrue.tokens.conversation import Ids
from holdtrue.tokens.tree import Tree, grow

_log = logging.getLogger(__name__)


class StateCache:
    """States of one model, which must not change while the cache is in use.

    Args:
        model: gives ``hidden`` and has no gate.
        folder: made when it is needed; may be shared by models and data sets.
        tokens_per_pass: unique tokens in one forward pass; bounds memory only.

    Attributes:
        computed: sequences that went through the backbone.
        read: sequences whose state was found in the folder.
    """

    def __init__(self, model: RewardModel, folder: Path, tokens_per_pass: int) -> None:
        self.model = model
        self.tokens_per_pass = tokens_per_pass
        self.folder = folder / _backbone_hash(model)[:16]
        self._states: dict[bytes, Tensor] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                self._states |= _read(file)
            except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
                said = " ".join(str(error).split())[:100]
                _log.warning(f"{file} is broken, its states are computed again: {said}")
        self.computed = self.read = 0

    def answers(self, trees: Sequence[Tree]) -> Tensor:
        """(N, D) float32 states of the trees' answers, on the CPU, in their order."""
        return self._states_of([_sequences(tree) for tree in trees])

    def prompts(self, trees: Sequence[Tree]) -> Tensor:
        """(N, D) float32 states of the rendered prompt before each of the trees' answers."""
        return self._states_of(
            [
                [ids[: last + 1] for ids, (last,) in zip(_sequences(tree), tree.marks, strict=True)]
                for tree in trees
            ]
        )

    def _states_of(self, groups: Sequence[Sequence[Ids]]) -> Tensor:
        """States of sequences; those of one group share a beginning.

        Raises:
            ResourceError, DataError: the folder cannot be written.
        """
        new: dict[bytes, Ids] = {}
        trees = []
        for group in groups:
            here = {_key(ids): ids for ids in group}
            missing = {key: ids for key, ids in here.items() if key not in self._states and key not in new}
            new |= missing
            if missing:
                trees.append(grow(list(missing.values())))
        wanted = [_key(ids) for group in groups for ids in group]
        self.read += len(set(wanted)) - len(new)
        self.computed += len(new)
        if new:
            found = dict(zip(new, self._compute(trees), strict=True))
            self._states |= found
            _write(self.folder, found)
        return torch.stack([self._states[key] for key in wanted])

    @torch.inference_mode()
    def _compute(self, trees: Sequence[Tree]) -> Tensor:
        model = self.model
        places, count = [], 0
        for tree in trees:
            places.append(range(count, count + len(tree.answers)))
            count += len(tree.answers)
        states = torch.zeros(count, model.inner.config.get_text_config().hidden_size)
        for batch in model.pack(trees, self.tokens_per_pass):
            rows = torch.tensor([row for i in batch for row in places[i]])
            states[rows] = given(model(model.batch([trees[i] for i in batch])).hidden).float().cpu()
        return states


def _sequences(tree: Tree) -> list[Ids]:
    return [np.concatenate([tree.prompt, answer]) for answer in tree.answers]


def _key(ids: Ids) -> bytes:
    return hashlib.sha256(ids.tobytes()).digest()


def _backbone_hash(model: RewardModel) -> str:
    """Hash of what states depend on: an encoder's classifier has layers between its backbone and its head."""
    digest = hashlib.sha256(f"{type(model.inner).__name__} {model.pool} {model.bf16}".encode())
    for name, value in sorted(model.inner.state_dict().items()):
        if name.startswith(f"{model.head_name}."):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # as bytes, since numpy has no bfloat16
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _contents(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


def _write(folder: Path, states: Mapping[bytes, Tensor]) -> None:
    keys = torch.frombuffer(bytearray(b"".join(states)), dtype=torch.uint8).reshape(-1, 32)
    tensors = {"keys": keys, "states": torch.stack(list(states.values()))}
    file = folder / f"{hashlib.sha256(keys.numpy().data).hexdigest()[:32]}.safetensors"
    with disk_errors(file):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, temporary, metadata={"sha256": _contents(tensors)})
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)


def _read(file: Path) -> dict[bytes, Tensor]:
    with safe_open(file, "pt") as opened:
        noted: dict[str, str] = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in ("keys", "states")}
    if noted.get("sha256") != _contents(tensors):
        raise ValueError("its numbers have changed")
    return {bytes(key.tolist()): state for key, state in zip(tensors["keys"], tensors["states"], strict=True)}
