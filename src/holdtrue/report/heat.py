"""Numbers for parts of a text as colours behind it.

    strength = |value - middle| / (high - middle)      orange below the middle, blue above

The middle is 0 for steps and sentences, where it means something, and half way between the lowest and the
highest value for tokens. Both answers of a pair share one scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any

from holdtrue.report import wording

_STRONGEST = 62
"""Percent of colour at the ends of the scale: more would make the text hard to read."""


@dataclass(frozen=True)
class Scale:
    """What the colours stand for."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Piece:
    """A part of a text and, where it has a value, that value, the colour's side and its percentage."""

    text: str
    said: str = ""
    side: str = ""
    strength: int = 0


def draw(row: Mapping[str, Any], how: str, texts: Sequence[str]) -> Mapping[str, Any] | None:
    """A mistake's scale, and the pieces of its two texts as far as they are shown; None without any value."""
    spans = row["explanation"]["spans"]
    values = [value for own in spans for _, _, value in own]
    if not values:
        return None
    scale = fit(values, around_zero=how != "tokens")
    return {
        "scale": scale,
        "sides": [pieces(text, own, scale) for text, own in zip(texts, spans, strict=True)],
    }


def fit(values: Sequence[float], *, around_zero: bool) -> Scale:
    """The scale on which the farthest of the values has the full colour."""
    if around_zero:
        most = max(map(abs, values))
        return Scale(-most, 0.0, most)
    low, high = min(values), max(values)
    return Scale(low, (low + high) / 2, high)


def pieces(text: str, spans: Sequence[tuple[int, int, float]], scale: Scale) -> list[Piece]:
    """The text in order, cut at the spans; all pieces together are the text.

    Values are said to a hundredth of the scale.
    """
    table = []
    at = 0
    room = scale.high - scale.middle
    digits = max(0, 2 - floor(log10(room))) if room else 2
    for start, end, value in spans:
        if start >= len(text):
            break
        if start > at:
            table.append(Piece(text[at:start]))
        far = (value - scale.middle) / room if room else 0.0
        side = "up" if far >= 0 else "down"
        said = wording.signed(round(value, digits) + 0.0, digits)  # no minus before a zero
        table.append(Piece(text[start:end], said, side, round(_STRONGEST * abs(far))))
        at = min(end, len(text))
    return [*table, Piece(text[at:])] if at < len(text) else table


def caption(explained: Mapping[str, Any]) -> str:
    """What the colours behind the texts mean, and what they cost."""
    what = {
        "tokens": "Colours are the model’s value after each token. The reward is the value at the very end, "
        "after what the chat template writes there.",
        "steps": "Colours are the value of each step, the logit of P(right): 0 is as likely right as wrong.",
        "sentences": "Colours are what each sentence is worth: the reward less the reward of the answer "
        "without it. Of long answers, neighbouring sentences are taken together.",
    }[explained["how"]]
    scored = wording.many(explained["answers_scored"], "answer")
    return f"{what} So explained are the first {explained['pairs']:,}, by scoring {scored} once more."
