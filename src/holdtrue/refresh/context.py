"""What a refresh is given and what it says: the context and the report. Nothing here loads torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import DataError, ModelError, SettingsError
from holdtrue.records import Comparison, Group
from holdtrue.settings import Settings

if TYPE_CHECKING:
    from holdtrue.reward.scorer import StreamingScorer
    from holdtrue.training.distributed import World

Floats = NDArray[np.floating]
Need = Literal["shifted", "shifted log-ratios", "pair log-ratios", "labels"]
Labeller = Callable[[Sequence[Group]], Sequence[Comparison | None]]
"""For each group of two answers what a rater said of them; None where nothing was said."""

_PROBED = 16
"""Groups the model in use is tried on before anything is built on its rewards."""


@dataclass(frozen=True)
class RefreshContext:
    """All that a refresh may use.

    Attributes:
        settings: ``model`` is what training starts from (the base model; or the last round's reward model, to
            go on from there), ``data`` says how texts are cut, ``loss`` and ``training`` how it is trained.
        current: the reward model in use.
        pairs: the comparisons the first model was trained on, and ``bought``, those that earlier refreshes
            had labelled.
        folder: where runs and the new model are written. A refresh that was interrupted goes on from there.
        seed: of the head, the order of the rows and every draw.
        shifted: prompts with K answers each of the current policy.
        shifted_log_ratios: for each of these (K,) log π(y|x) - log π_ref(y|x), in nats.
        pair_log_ratios: the same for the answers of each group of ``pairs``.
        held_out: comparisons to validate on while training; without any the last step's weights are taken.
        labeller: what gives labels, and ``budget``, how many it may be asked for.
        world: this process among its siblings; by default it is alone.
        tell: gets every row of metrics of every training. ``stop``: asked once a step.
    """

    settings: Settings
    current: StreamingScorer
    pairs: Sequence[Group]
    folder: Path
    seed: int = 0
    bought: Sequence[Group] = ()
    shifted: Sequence[Group] = ()
    shifted_log_ratios: Sequence[Floats] | None = None
    pair_log_ratios: Sequence[Floats] | None = None
    held_out: Sequence[Group] = ()
    labeller: Labeller | None = None
    budget: int = 0
    world: World | None = None
    tell: Callable[[dict[str, Any]], None] = lambda row: None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh did.

    Attributes:
        method: its name.
        model: folder of the new reward model; None where the old one is kept.
        labels: how many were bought.
        comparisons: how many the new model was trained on.
        numbers: what the method measured, by name.
        counts: what it made, chose or left out -> how many.
        warnings: what makes the result doubtful, in sentences.
        seconds: wall time of all of it.
    """

    model: Path | None = None
    method: str = ""
    labels: int = 0
    comparisons: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite is null."""
        finite = {name: value if np.isfinite(value) else None for name, value in self.numbers.items()}
        model = None if self.model is None else str(self.model)
        return asdict(self) | {"model": model, "numbers": finite, "warnings": list(self.warnings)}


def require(context: RefreshContext, method: str, needs: frozenset[Need]) -> None:
    """Refuse a context that lacks what a method needs, before anything is trained.

    Raises:
        SettingsError, DataError, ModelError: what is missing, and what would be right.
    """
    if context.settings.training.parallel == "fsdp":
        raise SettingsError("a refresh copies the model to each process; set training.parallel to data")
    if not any(group.comparisons for group in context.pairs):
        raise DataError(f"{method} trains on the original pairs, and the context holds no comparison")
    if "shifted" in needs:
        if not context.shifted:
            raise DataError(f"{method} needs answers of the current policy, and context.shifted is empty")
        if max(len(group.answers) for group in context.shifted) < 2:
            raise DataError(f"{method} compares answers to one prompt: sample two or more of each, got 1")
    if "labels" in needs and context.labeller is None:
        raise SettingsError(f"{method} needs labels, and the context has no labeller")
    if "labels" in needs and context.budget < 1:
        raise SettingsError(f"{method} buys labels: budget must be 1 or more, got {context.budget}")
    for need, ratios, groups in (
        ("shifted log-ratios", context.shifted_log_ratios, context.shifted),
        ("pair log-ratios", context.pair_log_ratios, context.pairs),
    ):
        if need in needs:
            _require_ratios(method, need, ratios, groups)
    probed = [*context.pairs[:_PROBED], *context.shifted[:_PROBED]]
    rewards(context.current, probed)


def _require_ratios(method: str, need: str, ratios: Sequence[Floats] | None, groups: Sequence[Group]) -> None:
    if ratios is None:
        raise DataError(f"{method} needs {need} of policy to reference, and the context has none")
    if [len(one) for one in ratios] != [len(group.answers) for group in groups]:
        raise DataError(f"{method} needs {need}: one number for each answer of each of {len(groups)} groups")
    if not all(np.isfinite(one).all() for one in ratios):
        raise DataError(f"{method} needs finite {need}; some are not")


def rewards(
    scorer: StreamingScorer, groups: Sequence[Group], name: str = "reward model"
) -> list[NDArray[np.float32]]:
    """Rewards (K,) of each group's answers; NaN only where an answer cannot be read (too long, ...).

    ``name`` is what errors call the model.

    Raises:
        ModelError: the model gives what is no finite number.
    """
    from holdtrue.reward.scorer import NOT_FINITE

    scored = list(scorer.stream(groups))
    broken = sum(reason == NOT_FINITE for item in scored for reason in item.reasons)
    if broken:
        total = sum(len(group.answers) for group in groups)
        raise ModelError(f"the {name} gives no finite number for {broken} of {total} answers")
    return [item.rewards for item in scored]


def count_comparisons(groups: Sequence[Group]) -> int:
    """Comparisons of all groups."""
    return sum(len(group.comparisons) for group in groups)


def named_counts(counts: Counter[str]) -> dict[str, int]:
    """Counts that are not 0, the largest first."""
    return {name: count for name, count in counts.most_common() if count}
