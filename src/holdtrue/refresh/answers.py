"""Rollouts of a policy as groups that reward models read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from holdtrue.errors import DataError
from holdtrue.records import Answer, Group, Message, Messages, Rollout
from holdtrue.refresh.context import Floats

RATIO = "log_ratio"
"""Column of rollouts: log-probability under the policy that wrote the answer less the reference's."""


def together(rollouts: Sequence[Rollout], plain_text: Literal["chat", "raw"]) -> list[Group]:
    """A group for each prompt with all its answers; plain strings are what the model takes them for."""
    prompts: dict[str, list[Rollout]] = {}
    for one in rollouts:
        prompts.setdefault(one.prompt_key, []).append(one)
    found = []
    for own in prompts.values():
        prompt: Messages | str = own[0].prompt
        raw = isinstance(prompt, str) and plain_text == "raw"
        if isinstance(prompt, str) and not raw:
            prompt = (Message("user", prompt),)
        ratios = [one.meta.get(RATIO) for one in own]
        answers = tuple(
            Answer(
                (Message("assistant", one.answer),) if isinstance(one.answer, str) and not raw else one.answer
            )
            for one in own
        )
        found.append(Group(prompt, answers, meta={RATIO: ratios}))
    return found


def log_ratios(groups: Sequence[Group]) -> list[Floats] | None:
    """(K,) log-ratios of each group that :func:`together` made; None unless every answer has one.

    Raises:
        DataError: one is not a number.
    """
    columns = [group.meta[RATIO] for group in groups]
    if any(value is None for own in columns for value in own):
        return None
    try:
        return [np.array(own, dtype=np.float64) for own in columns]
    except (TypeError, ValueError):
        raise DataError(f"column {RATIO} must hold one number for each answer") from None
