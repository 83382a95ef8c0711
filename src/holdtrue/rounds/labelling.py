"""Labels of rounds: a user's function as a labeller, and the pairs that accuracy is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from holdtrue.errors import DataError
from holdtrue.policy.rewards import load_function
from holdtrue.records import Comparison, Group, Rollout
from holdtrue.refresh.answers import together
from holdtrue.refresh.context import Labeller
from holdtrue.refresh.labels import compared, remembered
from holdtrue.rounds.settings import LabelSettings
from holdtrue.rundir import read_jsonl


def load(settings: LabelSettings) -> Labeller | None:
    """The labeller of ``labels.function``; None where it is not set.

    Raises:
        SettingsError: there is no such file or function.
    """
    if settings.function is None:
        return None
    function: Any = load_function(settings.function, "prompts, firsts, seconds")

    def label(asked: Sequence[Group]) -> list[Comparison | None]:
        prompts = [group.prompt for group in asked]
        firsts, seconds = ([group.answers[i].text for group in asked] for i in (0, 1))
        try:
            said = list(function(prompts, firsts, seconds))
        except Exception as error:
            raise DataError(f"labels {settings.function} raised {type(error).__name__}: {error}") from error
        if len(said) != len(asked):
            raise DataError(f"labels {settings.function} gave {len(said)} labels for {len(asked)} pairs")
        return [_comparison(value, settings.function) for value in said]

    return label


def _comparison(value: object, name: str | None) -> Comparison | None:
    if value is None:
        return None
    try:
        probability = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        probability = -1.0
    if not 0 <= probability <= 1:
        raise DataError(f"labels {name} gave {value!r:.40}; a probability in [0, 1] or None is needed")
    return Comparison(0, 1, probability)


def bought(file: Path, groups: Sequence[Group]) -> list[Group]:
    """Pairs of an earlier round's answers that a refresh had labelled, as the file remembers."""
    by_key = {group.prompt_key: group for group in groups}
    found = []
    for row in read_jsonl(file):
        group = by_key.get(row["prompt"])
        if row["comparison"] is not None and group is not None:
            texts = {answer.text: answer for answer in group.answers}
            answers = tuple(texts[text] for text in row["answers"])
            found.append(Group(group.prompt, answers, (Comparison(**row["comparison"]),)))
    return found


def judge(
    rater: Labeller, rollouts: Sequence[Rollout], plain_text: Literal["chat", "raw"], file: Path
) -> list[Group]:
    """Groups of the rollouts with the comparisons the rater gives; what was said is kept in the file."""
    return compared(remembered(rater, file), together(rollouts, plain_text))
