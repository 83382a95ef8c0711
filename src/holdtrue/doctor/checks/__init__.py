"""Static checks: what is wrong with a model folder, its template, settings or data before training starts.

A check is a function of a :class:`~holdtrue.doctor.subject.Subject` marked with :func:`check`; it has no
settings of its own. What it needs of the data it counts with a tally (:mod:`holdtrue.doctor.tallies`), as the
rows are never held. A module of this package holds checks of one idea; the letter of an id names their group.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace

from holdtrue.doctor.applying import with_commands
from holdtrue.doctor.findings import Diagnosis, Finding, Skipped
from holdtrue.doctor.subject import Missing, Subject

Results = Iterator[Finding]


@dataclass(frozen=True)
class Check:
    """A check: its ``id``, and the function that makes it."""

    id: str
    name: str
    run: Callable[[Subject], Results]

    @property
    def summary(self) -> str:
        """First paragraph of the docstring: what is looked at, and what fails."""
        return " ".join((self.run.__doc__ or "").partition("\n\n")[0].split())


_CHECKS: dict[str, Check] = {}


def check(id: str) -> Callable[[Callable[[Subject], Results]], Callable[[Subject], Results]]:
    """Mark a function as the check ``id``. What it asks a subject for and is not there skips it, loudly."""

    def mark(function: Callable[[Subject], Results]) -> Callable[[Subject], Results]:
        if id in _CHECKS:
            raise ValueError(f"two checks are called {id}: {_CHECKS[id].name} and {function.__name__}")
        _CHECKS[id] = Check(id, function.__name__, function)
        return function

    return mark


def all_checks() -> list[Check]:
    """Every check, by id; imports the modules that hold them."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return [_CHECKS[id] for id in sorted(_CHECKS)]


def named(id: str) -> str:
    """Name of a check in words: ``eos set agreement``; "" for an id that no loaded check has."""
    return _CHECKS[id].name.replace("_", " ") if id in _CHECKS else ""


def examine(subject: Subject) -> Diagnosis:
    """Make every check of a subject."""
    results: list[Finding | Skipped] = []
    for one in all_checks():
        try:
            for found in one.run(subject):  # what was found stays, whatever is missing for the rest
                results.append(replace(found, fix=with_commands(subject, found)))
        except Missing as missing:
            results.append(Skipped(one.id, str(missing)))
    bad = {one.id for one in results if isinstance(one, Finding) and one.severity != "ok"}
    return Diagnosis.of(_after(one, bad) if isinstance(one, Finding) else one for one in results)


def _after(found: Finding, bad: Set[str]) -> Finding:
    """A finding whose fix names those findings of the same subject that are to be mended first."""
    first = [f"{id} ({why})" for id, why in found.values.get("mend_first", {}).items() if id in bad]
    return replace(found, fix=f"mend first {', '.join(first)}; then {found.fix}") if first else found
