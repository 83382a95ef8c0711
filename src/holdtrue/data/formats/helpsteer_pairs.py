"""Pairs with the strength of the preference: HelpSteer2-Preference and HelpSteer3-Preference.

    prompt, response_1, response_2, preference_strength     HelpSteer2, the prompt as in ``helpsteer``
    context, response1, response2, overall_preference       HelpSteer3, the context in messages
    any other column is kept as metadata

The strength goes from -3, the first answer is much better, over 0, about the same, to 3, the second is much
better. Its sign becomes the label (0 is a tie). Whether it should be a margin, a weight or nothing is a
choice of the loss (arXiv 2410.01257 compares them), so the number itself is kept as metadata.
Sources: https://huggingface.co/datasets/nvidia/HelpSteer2, https://huggingface.co/datasets/nvidia/HelpSteer3
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, content, number
from holdtrue.data.formats import Format, holds, pair, with_prompt
from holdtrue.data.formats.helpsteer import turns
from holdtrue.records import Group

_SECOND = ("prompt", "response_1", "response_2", "preference_strength")
_THIRD = ("context", "response1", "response2", "overall_preference")


class HelpSteerPairs(Format):
    """``{prompt, response_1, response_2, preference_strength}`` or HelpSteer3's names for them."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages (HelpSteer2)",
        "response_1": "the first answer",
        "response_2": "the second answer",
        "preference_strength": "-3 (the first is much better) to 3 (the second is), 0 is a tie",
        "context": "messages (HelpSteer3)",
        "response1": "the first answer",
        "response2": "the second answer",
        "overall_preference": "as preference_strength",
    }
    needs: ClassVar[tuple[str, ...]] = (f"{', '.join(_SECOND)} or {', '.join(_THIRD)}",)
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "prompt": "Name a fruit.",
            "response_1": "Apple.",
            "response_2": "Stone.",
            "preference_strength": -3,
            "split": "train",
        },
        {
            "context": [{"role": "user", "content": "2 + 2?"}],
            "response1": "5",
            "response2": "4",
            "overall_preference": 2,
            "domain": "stem",
        },
        {
            "context": [{"role": "user", "content": "Hi"}],
            "response1": "Hello!",
            "response2": "Hi there!",
            "overall_preference": 0,
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """The four columns of HelpSteer2-Preference or those of HelpSteer3-Preference."""
        return holds(row, *_SECOND) or holds(row, *_THIRD)

    def parse(self, row: Mapping[str, Any]) -> Group:
        names = _SECOND if holds(row, *_SECOND) else _THIRD
        strength = number(row, names[3], -3.0, 3.0)
        if strength is None:
            raise BadRow("missing field", f"{names[3]} is null")
        answers = [content(row, name) for name in names[1:3]]
        prompt, (one, other) = with_prompt(turns(row[names[0]]), answers, self.plain_text, names[0])
        label = 0.5 if strength == 0 else float(strength < 0)
        return replace(pair(prompt, one, other, {"label": label}), meta={names[3]: row[names[3]]})
