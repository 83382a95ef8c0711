"""Refresh methods: one module per way to bring a reward model up to date between rounds.

A method is a :class:`Refresh`: it takes a :class:`~holdtrue.refresh.context.RefreshContext` and gives a
scorer and a :class:`~holdtrue.refresh.context.RefreshReport`. It is saved in ``<folder>/model`` as well.
Only fresh labels say what raters think of the new answers; all others bet on a structure. ``retrain`` is the
control that any other must beat.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from holdtrue import kinds
from holdtrue.kinds import Kind
from holdtrue.refresh.context import Need, RefreshContext, RefreshReport, require

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer

FAMILY = "holdtrue.refresh.methods"


class Refresh(Kind):
    """Base of the refresh methods."""

    @property
    def needs(self) -> frozenset[Need]:
        """What a context must hold besides the pairs."""
        return frozenset()

    def __call__(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        """The reward model for the next round, and what was done.

        Raises:
            SettingsError, DataError: the context lacks what the method needs.
            ModelError: the reward model in use does not give numbers.
            QualityError: training fell apart. Interrupted: ``context.stop`` asked for it; call again.
        """
        require(context, self.name(), self.needs)
        started = perf_counter()
        scorer, report = self.refresh(context)
        return scorer, replace(report, method=self.name(), seconds=round(perf_counter() - started, 3))

    @abstractmethod
    def refresh(self, context: RefreshContext) -> tuple[StreamingScorer, RefreshReport]:
        """The same, of a context that holds what the method needs."""


def named(value: Any) -> Refresh:
    """The method of a name, or of a mapping with ``kind`` and its fields.

    Raises:
        SettingsError: there is none, or a field is wrong.
    """
    found: Refresh = kinds.choose(FAMILY, value, None)
    return found
