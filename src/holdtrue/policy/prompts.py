"""Prompts: read from files, held out by hash, and as the token ids a policy continues."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from holdtrue.data import files, formats
from holdtrue.data.fields import BadRow
from holdtrue.data.formats import with_prompt
from holdtrue.data.reader import rejection
from holdtrue.data.splits import split_by_prompt
from holdtrue.errors import DataError, SettingsError
from holdtrue.policy.samples import Ids
from holdtrue.policy.settings import PromptSettings
from holdtrue.records import Group, Messages, Source, flatten
from holdtrue.rundir import append_jsonl, disk_errors
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
        dropped: file, line and reason of those that were read and cannot be answered.
    """

    train: Prompts
    held_out: Prompts
    files: dict[str, str]
    left_out: dict[str, int]
    dropped: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Its part of ``run.json``."""
        return {
            "prompts": len(self.train),
            "held_out": len(self.held_out),
            "left_out": self.left_out,
            "files": self.files,
        }


def read_prompts(
    settings: PromptSettings,
    tokenizer: Any,
    context: int | None,
    new_tokens: int,
    rejected: Path | None = None,
) -> Read:
    """All prompts that fit into the policy's context beside their answer; ``rejected`` as in
    :func:`read_splits`.

    Raises:
        SettingsError: an answer of ``new_tokens`` leaves no room for any prompt.
        DataError: a file cannot be read, or none of its rows can be used.
    """
    room = None if context is None else context - new_tokens
    if room is not None and room < 1:
        raise SettingsError(
            f"decoding.max_new_tokens {new_tokens} leaves no room for a prompt: the policy's context has "
            f"{context} tokens"
        )
    left_out: Counter[str] = Counter()
    train, held_out, hashes = read_splits(settings, left_out, rejected)
    encoder = Encoder(tokenizer, max_length=2**31)
    dropped: list[dict[str, Any]] = []
    encoded = [_encoded(groups, encoder, room, dropped) for groups in (train, held_out)]
    left_out.update(row["reason"] for row in dropped)
    if not len(encoded[0]):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(3))
        raise DataError(f"no usable prompt in {', '.join(settings.prompts)}: {reasons or 'no rows'}")
    judged = encoded[1].take(range(min(len(encoded[1]), settings.eval_prompts)))
    return Read(encoded[0], judged, hashes, dict(left_out), dropped)


def read_splits(
    settings: PromptSettings, left_out: Counter[str], rejected: Path | None = None
) -> tuple[list[Group], list[Group], dict[str, str]]:
    """Prompts that are trained on, those held out, as groups without answers, and the files' SHA-256.

    ``meta`` of a group are the other columns of its row. ``left_out`` counts the rows that cannot be read, by
    reason; ``rejected`` is a file that they are appended to with their lines.

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
                group = _prompt(row.value, settings.plain_text)
                found.append(replace(group, source=Source(resource, row.line, row.offset)))
            except BadRow as fault:
                left_out[fault.reason] += 1
                if rejected is not None:
                    with disk_errors(rejected):
                        append_jsonl(rejected, [rejection(resource, row, fault)])
        hashes[resource] = digest.hexdigest()
    return (*(split_by_prompt(found, settings.eval_fraction) if found else ([], [])), hashes)


def _prompt(row: Mapping[str, Any], plain_text: Literal["chat", "raw"]) -> Group:
    if "prompt" in row:
        prompt, read = with_prompt(row["prompt"], (), plain_text)[0], {"prompt"}
    else:
        layout = formats.recognise(row)
        prompt, read = layout(plain_text=plain_text).parse(row).prompt, {*layout.columns}
    return Group(prompt, (), meta={name: value for name, value in row.items() if name not in read})


def _encoded(
    groups: Sequence[Group], encoder: Encoder, room: int | None, dropped: list[dict[str, Any]]
) -> Prompts:
    result = Prompts()
    for group in groups:
        ids = encode(group.prompt, encoder)
        if len(ids) and (room is None or len(ids) <= room):
            result.texts.append(group.prompt)
            result.ids.append(ids)
            continue
        long = f"longer than {room} tokens, the context less decoding.max_new_tokens"
        reason = long if len(ids) else "without a token"
        assert group.source is not None
        detail = f"{len(ids)} tokens" if len(ids) else ""
        dropped.append({**asdict(group.source), "reason": reason, "detail": detail})
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
