"""Errors a user can meet, each with the exit code its command ends with.

    0 ok · 1 bug in holdtrue · 2 usage or settings · 3 data or files · 4 quality gate
    5 interrupted and resumable · 6 resources (memory, disk)

A message says what was wrong, what was seen and what would be right, in one or two lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


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


class QualityError(HoldtrueError):
    """A result that must not be used: a failed gate, or training that fell apart."""

    exit_code = 4


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
    known = sorted(set(known))
    near = nearest(seen, known)
    rest = f", and {len(known) - 12} more" if len(known) > 12 else ""
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known[:12])}{rest}"
    hint = hint if known else "there are none"
    return f"unknown {what} {seen!r}; {hint}"


def nearest(seen: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the seen one, if any is like it."""
    return next(iter(get_close_matches(seen, list(known), n=1, cutoff=0.5)), None)
