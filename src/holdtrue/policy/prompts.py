"""Prompts: read from files, held out by hash, and as the token ids a policy continues."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from holdtrue.data import files, formats
from holdtrue.data.fields import BadRow
from holdtrue.data.formats import with_prompt
from holdtrue.data.splits import split_by_prompt
from holdtrue.errors import DataError
from holdtrue.policy.samples import Ids
from holdtrue.policy.settings import PromptSettings
from holdtrue.records import Group, Messages, flatten
from holdtrue.tokens.conversation import Encoder


@dataclass
class Prompts:
    """Prompts and their ids, side by side."""

    texts: list[Messages | str] = field(default_factory=list)
    ids: list[Ids] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: Sequence[int]) -> Prompts:
        """Some of them, in this order."""
        return Prompts([self.texts[i] for i in places], [self.ids[i] for i in places])


@dataclass(frozen=True)
class Read:
    """Prompts of files.

    Attributes:
        files: path -> SHA-256.
        left_out: reason -> rows.
    """

    train: Prompts
    held_out: Prompts
    files: dict[str, str]
    left_out: dict[str, int]

    def summary(self) -> dict[str, Any]:
        """Its part of ``run.json``."""
        return {
            "prompts": len(self.train),
            "held_out": len(self.held_out),
            "left_out": self.left_out,
            "files": self.files,
        }


def read_prompts(settings: PromptSettings, tokenizer: Any, context: int | None, new_tokens: int) -> Read:
    """All prompts that fit into the policy's context beside their answer.

    Raises:
        DataError: a file cannot be read, or none of its rows can be used.
    """
    left_out: Counter[str] = Counter()
    train, held_out, hashes = read_splits(settings, left_out)
    encoder = Encoder(tokenizer, max_length=2**31)
    room = None if context is None else context - new_tokens
    encoded = [_encoded(groups, encoder, room, left_out) for groups in (train, held_out)]
    if not len(encoded[0]):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(3))
        raise DataError(f"no usable prompt in {', '.join(settings.prompts)}: {reasons or 'no rows'}")
    judged = encoded[1].take(range(min(len(encoded[1]), settings.eval_prompts)))
    return Read(encoded[0], judged, hashes, dict(left_out))


def read_splits(
    settings: PromptSettings, left_out: Counter[str]
) -> tuple[list[Group], list[Group], dict[str, str]]:
    """Prompts that are trained on, those held out, as groups without answers, and the files' SHA-256.

    ``meta`` of a group are the other columns of its row. ``left_out`` counts the rows that cannot be read, by
    reason.

    Raises:
        DataError: a file cannot be read.
    """
    found: list[Group] = []
    hashes = {}
    for resource in files.resources(settings.prompts):
        digest = hashlib.sha256()
        for row in files.rows(resource, digest):
            try:
                if row.fault is not None or row.value is None:
                    raise row.fault or BadRow("empty row")
                found.append(_prompt(row.value, settings.plain_text))
            except BadRow as fault:
                left_out[fault.reason] += 1
        hashes[resource] = digest.hexdigest()
    return (*(split_by_prompt(found, settings.eval_fraction) if found else ([], [])), hashes)


def _prompt(row: Mapping[str, Any], plain_text: Literal["chat", "raw"]) -> Group:
    if "prompt" in row:
        prompt, read = with_prompt(row["prompt"], (), plain_text)[0], {"prompt"}
    else:
        layout = formats.recognise(row)
        prompt, read = layout(plain_text=plain_text).parse(row).prompt, {*layout.columns}
    return Group(prompt, (), meta={name: value for name, value in row.items() if name not in read})


def _encoded(groups: Sequence[Group], encoder: Encoder, room: int | None, left_out: Counter[str]) -> Prompts:
    result = Prompts()
    for group in groups:
        ids = encode(group.prompt, encoder)
        if not len(ids):
            left_out["without a token"] += 1
        elif room is not None and len(ids) > room:
            left_out[f"longer than {room} tokens, the context less decoding.max_new_tokens"] += 1
        else:
            result.texts.append(group.prompt)
            result.ids.append(ids)
    return result


def encode(prompt: Messages | str, encoder: Encoder) -> Ids:
    """What a policy reads before its answer: the rendered chat with the opening of its turn, or the text
    after the BOS that its tokenizer adds.

    Raises:
        DataError: the chat template refuses the chat.
    """
    text = encoder.opening(prompt)
    if not text and prompt:
        raise DataError(f"the policy's chat template refuses the prompt {flatten(prompt)[:60]!r}")
    ids = np.array(encoder.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
    return np.concatenate([encoder.bos, ids]).astype(np.int64) if isinstance(prompt, str) else ids
