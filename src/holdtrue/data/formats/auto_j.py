"""Two answers and a verdict that may be a tie, as in the pairwise test data of Auto-J.

    prompt       text or messages
    response_a   one answer: text, messages or one message
    response_b   the other
    label        "a", "b" or "tie"
    any other column is kept as metadata

Source: https://github.com/GAIR-NLP/auto-j (arXiv 2310.05470)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import content, option
from holdtrue.data.formats import Format, holds, pair, with_prompt
from holdtrue.records import Group


class AutoJ(Format):
    """``{prompt, response_a, response_b, label}``: two answers, one better or neither."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "response_a": "one answer: text, messages or one message",
        "response_b": "the other answer",
        "label": "'a', 'b' or 'tie'",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt", "response_a", "response_b", "label")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompt": "Name a fruit.", "response_a": "Apple.", "response_b": "Stone.", "label": "a"},
        {"prompt": "Name a fruit.", "response_a": "Chair.", "response_b": "Plum.", "label": "b"},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "response_a": "4",
            "response_b": {"role": "assistant", "content": "Four"},
            "label": "tie",
            "scenario": "sums",
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt, both responses and label."""
        return holds(row, *cls.needs)

    def parse(self, row: Mapping[str, Any]) -> Group:
        answers = [content(row, "response_a"), content(row, "response_b")]
        label = option(row, "label", {"a": 1.0, "b": 0.0, "tie": 0.5})
        prompt, (one, other) = with_prompt(row["prompt"], answers, self.plain_text)
        return pair(prompt, one, other, {"label": label})
