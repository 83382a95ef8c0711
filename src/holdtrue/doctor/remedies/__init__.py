"""Remedies: what helps a policy that repeats itself, how sure that is, and where it does harm.

Each is a :class:`Remedy` in a file of its own: a :class:`DataRemedy` changes training rows, a
:class:`TrainingRemedy` gives settings (and its mathematics, where that is small), a :class:`DecodingRemedy`
gives parameters of requests. :mod:`holdtrue.doctor.prescription` chooses among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.errors import SettingsError, unknown
from holdtrue.kinds import Kind

FAMILY = __name__
EXAMPLES = 3

Row = dict[str, Any]
Stage = Literal["sft", "rl", "serving"]
Grade = Literal["A", "B", "C"]
GRADES: Mapping[Grade, str] = {
    "A": "certain, or measured",
    "B": "supported by published evidence",
    "C": "plausible, not shown",
}
OWN = "holdtrue rl"
"""The engine whose settings are those of ``holdtrue rl``; ``holdtrue`` are those of reward models and sft."""
HABIT = 0.01
"""Share of degenerate answers from which on a policy has the habit."""


@dataclass(frozen=True)
class Context:
    """Where a remedy would be used. What is not known is None, and refuses nothing.

    Attributes:
        stage: what is done with the model: ``sft``, ``rl`` or ``serving``.
        findings: ids of checks, signals and detectors that warn or fail, such as ``C06``.
        targets: whether the training rows hold answers to learn from (RL data are prompts alone).
        truncated: share of the answers that the length limit cut.
        looping: share of the cut answers that loop.
        limit: tokens at which answers were cut.
        kl: coefficient of the KL term that they were trained with.
        engine: whose settings are wanted, such as :data:`OWN`; None: everyone's.
        reference: share of degenerate answers of the reference model.
        vocabulary: of the model.
    """

    stage: Stage = "rl"
    findings: frozenset[str] = frozenset()
    targets: bool | None = None
    truncated: float | None = None
    looping: float | None = None
    limit: int | None = None
    kl: float | None = None
    engine: str | None = None
    reference: float | None = None
    vocabulary: Vocabulary | None = None


class Remedy(Kind):
    """What helps against a cause, with its evidence."""

    where: ClassVar[Literal["data", "training", "decoding"]]
    grade: ClassVar[Grade]
    evidence: ClassVar[str]
    """One line, with numbers where there are any."""
    source: ClassVar[str] = ""
    mends: ClassVar[frozenset[str]]
    """Ids of causes (:data:`holdtrue.doctor.causes.CAUSES`)."""
    harms: ClassVar[str] = ""
    """When it is refused, in a few words."""
    not_in_sft: ClassVar[str | None] = None
    not_in_rl: ClassVar[str | None] = None
    """Why it has no place in supervised training, and in RL."""

    def fitted(self, context: Context) -> Remedy:
        """The remedy with what is known of the place instead of its defaults; what was set stays."""
        return self

    def how(self, vocabulary: Vocabulary | None = None, engine: str | None = None) -> dict[str, Any]:
        """How it is carried out: engine -> its settings, of data remedies ``command``; ``python`` names the
        class where no engine, or not the ``engine`` asked for, has a setting for it, or it needs values of
        yours.
        """
        found = self._engines(vocabulary)
        if engine is not None:
            found = {name: one for name, one in found.items() if name in (engine, "command")}
        return found or {"python": f"{type(self).__module__}.{type(self).__name__}"}

    def _engines(self, vocabulary: Vocabulary | None) -> dict[str, Any]:
        return {}

    def refuses(self, context: Context) -> str | None:
        """One line that says why it does harm here; None where it may be used."""
        return {"sft": self.not_in_sft, "rl": self.not_in_rl}.get(context.stage)


@dataclass
class Changes:
    """What a data remedy changed: counts, and up to three examples of each kind of change."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, example: str) -> None:
        """Count a change."""
        self.counts[what] += 1
        shown = self.examples.setdefault(what, [])
        if len(shown) < EXAMPLES:
            shown.append(example)


class DataRemedy(Remedy):
    """Changes rows: of ``messages``, ``prompt`` and ``completion``, or ``prompt``, ``chosen``, ``rejected``.

    Deterministic; one that draws at random has a ``seed``. Rows that are changed are copies.
    """

    where = "data"
    reads_targets: ClassVar[bool] = True
    """Whether it is about what rows teach, so that rows of prompts alone have nothing for it."""

    def _engines(self, vocabulary: Vocabulary | None) -> dict[str, Any]:
        return {"command": f"holdtrue doctor fix MODEL --data ROWS --remedy {self.name()} --output FOLDER"}

    def refuses(self, context: Context) -> str | None:
        """As :class:`Remedy`; and where the rows hold nothing it could change."""
        if context.stage == "serving":
            return "nothing is trained while a model is served"
        if self.reads_targets and context.targets is False:
            return "the rows are prompts alone; use it on the data of the supervised training before"
        return super().refuses(context)

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """The changed rows, and what was changed.

        Raises:
            DataError: the rows lack what it needs, or too little of them would be left.
        """
        raise NotImplementedError


class TrainingRemedy(Remedy):
    """Changes how a policy is trained."""

    where = "training"

    def refuses(self, context: Context) -> str | None:
        """As :class:`Remedy`; and while a model is served."""
        if context.stage == "serving":
            return "nothing is trained while a model is served"
        return super().refuses(context)

    def engines(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings by the names of ``trl`` and ``verl``, where they have any; of ``holdtrue``, and of
        :data:`OWN`."""
        return {}

    def _engines(self, vocabulary: Vocabulary | None) -> dict[str, Any]:
        with suppress(SettingsError):  # it needs values that only the user knows
            return dict(self.engines())
        return {}

    def settings(self, engine: str) -> dict[str, Any]:
        """Its settings by an engine's own names; of holdtrue by default this kind itself.

        Raises:
            SettingsError: the engine has no setting for it.
        """
        return _of(self, engine, {"holdtrue": self.model_dump(mode="json"), **self.engines()})


class DecodingRemedy(Remedy):
    """Changes how answers are drawn."""

    where = "decoding"

    def refuses(self, context: Context) -> str | None:
        """As :class:`Remedy`; and in supervised training."""
        if context.stage == "sft":
            return "supervised training draws no answers"
        return super().refuses(context)

    def engines(self, vocabulary: Vocabulary | None) -> Mapping[str, Mapping[str, Any]]:
        """Parameters of a request by the names of ``vllm``, ``sglang`` and ``transformers``; settings of
        :data:`OWN`."""
        raise NotImplementedError

    def _engines(self, vocabulary: Vocabulary | None) -> dict[str, Any]:
        with suppress(SettingsError):  # it needs the vocabulary
            return dict(self.engines(vocabulary))
        return {}

    def parameters(self, engine: str, vocabulary: Vocabulary | None = None) -> dict[str, Any]:
        """Its parameters by an engine's own names.

        Raises:
            SettingsError: the engine cannot do it, or a vocabulary is needed.
        """
        return _of(self, engine, self.engines(vocabulary))


def _of(remedy: Remedy, engine: str, engines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if engine not in engines:
        raise SettingsError(f"{remedy.name()}: {unknown('engine with a setting for it', engine, engines)}")
    return dict(engines[engine])


def percent(share: float) -> str:
    """``0.126`` as ``13 %``."""
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else f"{100 * share:.1f} %"


def listed(ids: Iterable[int]) -> str:
    """Ids for people, the first eight."""
    ids = sorted(ids)
    return ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
