"""What a run trains on and what it is validated on: files read by settings, prompts held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from holdtrue.data.reader import Reader, ReadReport
from holdtrue.errors import DataError
from holdtrue.records import Group, content_hash
from holdtrue.settings import DataSettings


def read_groups(
    paths: Sequence[str], settings: DataSettings, rejected: Path | None, *, comparisons: bool = True
) -> tuple[list[Group], ReadReport]:
    """All readable groups, and the report of the reading.

    Raises:
        DataError: no row could be used, or none holds a comparison where ``comparisons`` are needed.
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
    if comparisons and not any(group.comparisons for group in groups):
        raise DataError(
            f"{', '.join(paths)}: rows hold answers but no comparisons between them (chosen, rejected)"
        )
    return groups, reader.report


def read_splits(
    settings: DataSettings, rejected: Path | None, *, comparisons: bool = True
) -> tuple[list[Group], list[Group], dict[str, ReadReport]]:
    """Training groups, validation groups (named files, or prompts held out of training) and the reports."""
    train, report = read_groups(settings.train, settings, rejected, comparisons=comparisons)
    reports = {"train": report}
    if settings.eval:
        held_out, reports["eval"] = read_groups(settings.eval, settings, rejected, comparisons=comparisons)
    elif settings.eval_fraction:
        train, held_out = split_by_prompt(train, settings.eval_fraction)
    else:
        held_out = []
    return train, held_out, reports


def split_by_prompt(groups: Sequence[Group], fraction: float) -> tuple[list[Group], list[Group]]:
    """(train, held out): about ``fraction`` of the prompts, chosen by hash of the prompt, are held out.

    A prompt's side depends on nothing but the prompt, so it stays when rows are added, reordered or
    read by another run; all groups of a prompt are on one side. With ``fraction`` strictly between 0
    and 1 and at least two prompts neither side is empty. Rows without a prompt are told apart by
    their answers.

    Raises:
        ValueError: ``fraction`` is not within [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    places = [_place(group) for group in groups]
    cut = fraction
    if 0 < fraction < 1 and len(distinct := sorted(set(places))) > 1:
        cut = min(max(fraction, distinct[1]), distinct[-1])
    train = [group for group, place in zip(groups, places, strict=True) if place >= cut]
    held_out = [group for group, place in zip(groups, places, strict=True) if place < cut]
    return train, held_out


def _place(group: Group) -> float:
    """Where in [0, 1) the group's prompt lies."""
    key = group.prompt_key
    if not group.prompt:
        key = min(content_hash(answer.content) for answer in group.answers)
    # Hashed again, so that files which were themselves split by hash are not all on one side.
    return int.from_bytes(hashlib.sha256(f"held out:{key}".encode()).digest()[:6]) / 2**48
