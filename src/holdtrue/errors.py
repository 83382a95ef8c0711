"""Errors a user can meet, each with the exit code its command ends with.

    0 ok · 1 bug in holdtrue · 2 usage or settings · 3 data or files · 4 quality gate
    5 interrupted and resumable · 6 resources (memory, disk)

A message says what was wrong, what was seen and what would be right, in one or two lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

EXIT_QUALITY = 4


class HoldtrueError(Exception):
    """Base of every error that is not a bug in holdtrue."""

    exit_code: ClassVar[int] = 1


class SettingsError(HoldtrueError):
    """A setting, flag or combination of them that cannot be used."""

    exit_code = 2


class DataError(HoldtrueError):
    """A data file that is missing, unreadable or holds nothing usable."""

    exit_code = 3


class ModelError(HoldtrueError):
    """A model folder that is missing, broken or of a kind that cannot be used here."""

    exit_code = 3


class Interrupted(HoldtrueError):
    """Work stopped at the user's request after its state was saved."""

    exit_code = 5


class ResourceError(HoldtrueError):
    """The machine ran out of memory or disk."""

    exit_code = 6


def unknown(what: str, seen: str, known: Iterable[str]) -> str:
    """Sentence for a name nobody knows: says what was seen and the nearest right name.

    >>> unknown("setting", "loss.centre", ["loss.center"])
    "unknown setting 'loss.centre'; did you mean 'loss.center'?"
    """
    known = sorted(known)
    near = get_close_matches(seen, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown {what} {seen!r}; {hint}"
