"""Rare tokens that a family of models falls into."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.facts import FAMILIES
from holdtrue.doctor.reading import Reading, quote

_TOKENS = sorted({token.strip() for family in FAMILIES for token in family.attractors})
_ATTRACTORS = re.compile(rf"(?<![\w.])({'|'.join(_TOKENS)})(?![\w(.])")


class AttractorToken(Detector):
    """Rare tokens into which a family of models falls when its numerics break (Qwen: addCriterion). Warns.

    Called as a function, or part of a longer name, they are code and fine. transformers' own test of
    Qwen2.5-VL pins one as the output of a padded row.
    """

    why: ClassVar = (
        "The forward pass is wrong somewhere (padding, positions, attention); the policy is trained on it."
    )
    fix: ClassVar = (
        "Use sdpa or FlashAttention instead of eager, bfloat16 instead of float16, padding on the left; "
        "check images in the middle of prompts."
    )
    source: ClassVar = "QwenLM/Qwen3-VL#759; huggingface/transformers PR 33317"

    def check(self, reading: Reading) -> Iterator[Flag]:
        """All of them as one flag."""
        if not any(token in reading.text for token in _TOKENS):
            return
        places = [place for place in reading.find(_ATTRACTORS) if place.group() not in reading.prompt]
        if places:
            first = places[0]
            around = reading.text[max(first.start() - 20, 0) : first.end() + 20]
            yield self.flag(
                "warn",
                f"{first.group()} x {len(places)}: {quote(around)}",
                span=(first.start(), places[-1].end()),
                signature=f"attractor {first.group()}",
            )
