"""Checks of a saved model: what a finding is, the sample it is measured on, and what all share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from holdtrue.records import Answer, Group, Message
from holdtrue.reward.card import RewardCard, text_hash, weights_hash
from holdtrue.reward.readme import TRUNCATED
from holdtrue.reward.scorer import RewardScorer
from holdtrue.reward.store import Loaded

Status = Literal["ok", "warn", "fail", "skip"]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, what was measured, and what it means."""

    name: str
    status: Status
    detail: str


def sample() -> list[Group]:
    """A dozen conversations of very different lengths, with two answers each that end differently."""
    questions = (
        "Hi",
        "What is the capital of France?",
        "My printer shows error 42 and blinks twice. I already restarted it. What else can I try?",
        "Explain in simple words why the sky is blue, please, and why it is red in the evening.",
    )
    answers = (
        "Sure.",
        "I am sorry, I cannot help with that!",
        "First check the cable, then open the cover and remove the paper that is stuck behind the tray",
        "Short waves are scattered more than long ones, so blue light reaches the eye from all sides; "
        "in the evening the light crosses more air and mostly the long, red waves are left :)",
    )
    groups = []
    for turns in range(3):
        for index, question in enumerate(questions):
            history = [
                Message("user" if t % 2 == 0 else "assistant", questions[t % 4]) for t in range(2 * turns)
            ]
            pair = (answers[index], answers[(index + 1 + turns) % 4])
            groups.append(
                Group(
                    (*history, Message("user", question)),
                    tuple(Answer((Message("assistant", text),)) for text in pair),
                )
            )
    return groups


def compare(
    name: str, one: np.ndarray, other: np.ndarray, spread: float, tolerance: float = TOLERANCE
) -> Check:
    """Whether two ways to compute the same numbers agree, relative to their spread."""
    error = float(np.abs(one - other).max()) / spread
    return Check(
        name, "ok" if error <= tolerance else "fail", f"largest difference {error:.1e} of the spread"
    )


def check_card(folder: Path, loaded: Loaded) -> Iterator[Check]:
    """What the reward card says against what is in the folder."""
    card = loaded.card
    if card is None:
        yield Check("reward card", "warn", "none: template, limits and calibration of training are unknown")
        return
    same = card.weights_sha256 == weights_hash(folder)
    yield Check(
        "weights", "ok" if same else "fail", "as saved" if same else "changed since the card was written"
    )
    if loaded.model.pool == "last":
        yield _template(loaded, card)
    limit = RewardScorer(loaded).encoder.max_length
    yield Check(
        "length", "ok", f"conversations up to {limit} tokens, longer ones: {TRUNCATED[card.truncation]}"
    )


def _template(loaded: Loaded, card: RewardCard) -> Check:
    same = text_hash(loaded.tokenizer.chat_template or "") == card.template.get("sha256")
    return Check(
        "chat template", "ok" if same else "fail", "as trained" if same else "differs from training's"
    )
