"""What a run trains on and what it is validated on: files read by settings, prompts held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdtrue.data import transforms
from holdtrue.data.reader import Reader, ReadReport
from holdtrue.data.transforms import Transform
from holdtrue.records import Group, content_hash
from holdtrue.settings import DataSettings


@dataclass(frozen=True)
class Splits:
    """Training groups, validation groups, and by split what became of the rows of its files.

    Attributes:
        transformed: what ``data.transforms`` changed, by split; empty without any.
    """

    train: list[Group]
    eval: list[Group]
    reports: dict[str, ReadReport]
    transformed: dict[str, list[dict[str, Any]]]


def read_groups(
    paths: Sequence[str], settings: DataSettings, rejected: Path | None
) -> tuple[list[Group], ReadReport]:
    """All readable groups and the report of the reading.

    Raises:
        DataError: no row could be used.
    """
    reader = Reader(
        paths,
        format=settings.format,
        columns=settings.columns,
        on_bad_row=settings.on_bad_row,
        plain_text=settings.plain_text,
        rejected=rejected,
    )
    groups = list(reader)
    reader.report.require_rows()
    return groups, reader.report


def read_splits(settings: DataSettings, rejected: Path | None) -> Splits:
    """What a run trains on and is validated on: named files, or prompts held out of the training files.

    Raises:
        DataError: no row could be used, or a transform cannot be done.
    """
    train, report = read_groups(settings.train, settings, rejected)
    reports = {"train": report}
    other: list[Group] = []
    if settings.eval:
        other, reports["eval"] = read_groups(settings.eval, settings, rejected)
    elif settings.eval_fraction:
        train, other = split_by_prompt(train, settings.eval_fraction)
    train, other, transformed = transform_splits(settings.transforms, train, other)
    return Splits(train, other, reports, transformed)


def transform_splits(
    chosen: Sequence[Transform], train: list[Group], held_out: list[Group]
) -> tuple[list[Group], list[Group], dict[str, list[dict[str, Any]]]]:
    """Both splits after the transforms, and what these changed in each.

    Held-out groups undergo only those that make the labels they are judged by, where they have ratings.
    """
    transformed: dict[str, list[dict[str, Any]]] = {}
    if chosen:
        train, transformed["train"] = transforms.apply(chosen, train)
    labelling = [transform for transform in chosen if transform.for_every_split]
    if labelling and any(answer.ratings for group in held_out for answer in group.answers):
        held_out, transformed["eval"] = transforms.apply(labelling, held_out)
    return train, held_out, transformed


def split_by_prompt(groups: Sequence[Group], fraction: float) -> tuple[list[Group], list[Group]]:
    """(train, held out): about ``fraction`` of the prompts, chosen by hash of the prompt, are held out.

    A prompt's side depends on nothing but the prompt, so it stays when rows are added, reordered or
    read by another run; all groups of a prompt are on one side. With ``fraction`` strictly between 0
    and 1 and at least two prompts neither side is empty; a single prompt is trained on. Rows without a
    prompt are told apart by their answers.

    Raises:
        ValueError: ``fraction`` is not within [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    held = held_out([_key(group) for group in groups], fraction)
    return (
        [group for group, out in zip(groups, held, strict=True) if not out],
        [group for group, out in zip(groups, held, strict=True) if out],
    )


def held_out(keys: Sequence[str], fraction: float) -> list[bool]:
    """Which rows are held out, by the hashes of their prompts, as :func:`split_by_prompt` says."""
    places = [_place(key) for key in keys]
    cut = fraction
    if 0 < fraction < 1 and (distinct := sorted(set(places))):
        cut = min(max(fraction, distinct[1]), distinct[-1]) if len(distinct) > 1 else 0.0
    return [place < cut for place in places]


def _key(group: Group) -> str:
    return group.prompt_key if group.prompt else min(content_hash(a.content) for a in group.answers)


def _place(key: str) -> float:
    """Where in [0, 1) a prompt lies."""
    # Hashed again, so that files which were themselves split by hash are not all on one side.
    return int.from_bytes(hashlib.sha256(f"held out:{key}".encode()).digest()[:6]) / 2**48
