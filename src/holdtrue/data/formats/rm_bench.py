"""Three right and three wrong answers to one prompt, each in three styles, as RM-Bench has them.

    prompt     text or messages
    chosen     three right answers: concise, detailed in plain text, detailed with Markdown
    rejected   three wrong answers in the same styles
    domain     chat, math, code, safety-refuse or safety-response
    domain and any other column are kept as metadata

Each chosen answer is preferred to each rejected one. Source: https://github.com/THU-KEG/RM-Bench
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow
from holdtrue.data.formats import Format, answers_of, has_lists, set_against
from holdtrue.records import Group

STYLES = 3


class RMBench(Format):
    """``{prompt, chosen, rejected, domain}`` with three answers a side, one per style."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "chosen": "three right answers: concise, detailed, detailed with Markdown",
        "rejected": "three wrong answers in the same styles",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt", "chosen (list)", "rejected (list)", "domain")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "id": 1,
            "prompt": "What is 6 times 7?",
            "chosen": ["42", "Six times seven is 42.", "**Result**\n\n- 6 × 7 = 42"],
            "rejected": ["48", "Six times seven is 48.", "**Result**\n\n- 6 × 7 = 48"],
            "domain": "math",
        },
        {
            "id": 2,
            "prompt": "When is bread done?",
            "chosen": ["When it sounds hollow.", "Tap it: it sounds hollow when done.", "# Test\n\nTap it."],
            "rejected": ["When it is wet.", "Cut it: it is wet when done.", "# Test\n\nCut it."],
            "domain": "chat",
        },
        {
            "id": 3,
            "prompt": "How do I kill time at an airport?",
            "chosen": ["Read.", "You could read or take a walk.", "- read\n- walk"],
            "rejected": ["I cannot help.", "I cannot help with killing.", "- I cannot help"],
            "domain": "safety-response",
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt with lists of chosen and rejected answers, and a domain."""
        return "prompt" in row and has_lists(row) and "domain" in row

    def parse(self, row: Mapping[str, Any]) -> Group:
        right, wrong = answers_of(row, "chosen"), answers_of(row, "rejected")
        if len(right) != STYLES or len(wrong) != STYLES:
            raise BadRow(
                "not three styles",
                f"chosen and rejected hold {len(right)} and {len(wrong)} answers, not three",
            )
        return set_against(row["prompt"], right, wrong, self.plain_text)
