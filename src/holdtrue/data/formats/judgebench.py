"""Pairs of responses of which one is objectively right, as JudgeBench has them.

    question     text or messages
    response_A   one response
    response_B   the other
    label        "A>B" or "B>A": which one is right
    source       where the question comes from; it and any other column are kept as metadata

Source: https://github.com/ScalerLab/JudgeBench
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, content, show
from holdtrue.data.formats import Format, holds, with_prompt
from holdtrue.records import Answer, Comparison, Group

_FIRST_IS_RIGHT = {"A>B": 1.0, "B>A": 0.0}


class JudgeBench(Format):
    """``{question, response_A, response_B, label}`` with a label ``A>B`` or ``B>A``."""

    columns: ClassVar[Mapping[str, str]] = {
        "question": "text or messages",
        "response_A": "one response: text, messages or one message",
        "response_B": "the other, in the same form",
        "label": "'A>B' or 'B>A'",
    }
    needs: ClassVar[tuple[str, ...]] = ("question", "response_A", "response_B", "label")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "question": "Is 91 prime?",
            "response_A": "No, it is 7 times 13.",
            "response_B": "Yes, nothing divides it.",
            "label": "A>B",
            "source": "livebench-math",
        },
        {
            "question": "Which is heavier, lead or wood of the same size?",
            "response_A": "Wood.",
            "response_B": "Lead.",
            "label": "B>A",
            "source": "mmlu-pro-physics",
        },
        {
            "question": "Write a function that doubles a number.",
            "response_A": "def double(n): return n ** 2",
            "response_B": "def double(n): return 2 * n",
            "label": "B>A",
            "source": "livecodebench",
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """A question with responses A and B and their label."""
        return holds(row, *cls.needs)

    def parse(self, row: Mapping[str, Any]) -> Group:
        responses = (content(row, "response_A"), content(row, "response_B"))
        if row["question"] is None:
            raise BadRow("missing field", "question is null")
        prompt, (first, second) = with_prompt(row["question"], responses, self.plain_text)
        label = row["label"]
        if not isinstance(label, str) or label not in _FIRST_IS_RIGHT:
            raise BadRow("label is neither A>B nor B>A", f"label is {show(label)}")
        return Group(prompt, (Answer(first), Answer(second)), (Comparison(0, 1, _FIRST_IS_RIGHT[label]),))
