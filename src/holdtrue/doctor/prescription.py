"""Prescription: which remedies mend the causes found, the best shown first, and which would do harm here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdtrue import kinds
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.remedies import FAMILY, OWN, Context, Remedy, Stage
from holdtrue.doctor.rollouts import DEGENERATE, Examination
from holdtrue.doctor.vocabulary import Vocabulary


@dataclass(frozen=True)
class Prescribed:
    """A remedy, the causes it mends, why it is refused here (None: it may be used), how it is carried out."""

    remedy: Remedy
    causes: tuple[str, ...]
    refused: str | None = None
    how: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        one = self.remedy
        return {
            "remedy": one.name(),
            "where": one.where,
            "grade": one.grade,
            "evidence": one.evidence,
            "source": one.source,
            "causes": list(self.causes),
            "refused": self.refused,
            "how": dict(self.how),
        }


def every_remedy() -> list[Remedy]:
    """One of each, with its defaults."""
    return kinds.one_of_each(FAMILY)


def prescribe(
    causes: Iterable[str | Mapping[str, Any]],
    context: Context,
    remedies: Sequence[Remedy] | None = None,
) -> list[Prescribed]:
    """Remedies for the causes by grade, then by the rank of the first cause they mend; the refused ones last.

    Args:
        causes: ids, or what :func:`holdtrue.doctor.causes.rank` gives, the best supported first.
        context: where they would be used.
        remedies: to choose from; all with their defaults, unless given.
    """
    ranked = [str(one["cause"]) if isinstance(one, Mapping) else one for one in causes]
    found = []
    for one in every_remedy() if remedies is None else remedies:
        remedy = one.fitted(context)
        mended = tuple(cause for cause in ranked if cause in remedy.mends)
        if mended:
            how = remedy.how(context.vocabulary, context.engine)
            found.append(Prescribed(remedy, mended, remedy.refuses(context), how))
    found.sort(
        key=lambda one: (
            one.refused is not None,
            one.remedy.grade,
            ranked.index(one.causes[0]),
            one.remedy.name(),
        )
    )
    return found


def context_of(
    examination: Examination,
    *,
    stage: Stage = "rl",
    static: Iterable[Mapping[str, Any]] = (),
    reference: str | None = None,
    targets: bool | None = None,
    vocabulary: Vocabulary | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Context:
    """What an examination of rollouts says of the place where remedies would be used.

    Args:
        examination: of the rollouts.
        stage: what is done with the model.
        static: findings of ``doctor check --json`` and ``doctor reward --json``.
        reference: policy of the rollouts that is the reference; without it nothing is known of its habits.
        targets: whether the training rows hold answers.
        vocabulary: of the model.
        settings: of the ``holdtrue rl`` that wrote the rollouts.
    """
    cut = _signal(examination.signals, "TRUNCATION")
    bad = {str(one["id"]) for one in static if one.get("severity") in ("warn", "fail")}
    bad |= {one.id for one in examination.signals if one.severity != "ok"}
    bad |= {flag.detector for row in examination.rows for flag in row.flags}
    rates = examination.rates.get(DEGENERATE, {}).get("by_policy", {})
    return Context(
        stage=stage,
        findings=frozenset(bad),
        targets=targets,
        truncated=cut["rate"] if cut else None,
        looping=cut["loops"] / cut["cut"] if cut and cut["cut"] else None,
        limit=cut["limit"] if cut else None,
        kl=(settings.get("algorithm") or {}).get("kl_coef") if settings else None,
        engine=OWN if settings else None,
        reference=rates[reference]["rate"] if reference in rates else None,
        vocabulary=vocabulary,
    )


def _signal(signals: Iterable[Finding], id: str) -> Mapping[str, Any] | None:
    return next((one.values for one in signals if one.id == id), None)
