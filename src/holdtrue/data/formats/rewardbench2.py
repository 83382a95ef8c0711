"""Several chosen and several rejected answers to one prompt, as RewardBench 2 has them.

    prompt     text or messages
    chosen     list of the right answers
    rejected   list of the wrong answers
    any other column (subset, id, ...) is kept as metadata

Each chosen answer is preferred to each rejected one. Source: https://huggingface.co/datasets/allenai/reward-bench-2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.formats import Format, answers_of, has_lists, set_against
from holdtrue.records import Group


class RewardBench2(Format):
    """``{prompt, chosen, rejected}`` with lists of answers: each chosen one beats each rejected one."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "chosen": "the right answers: a list of text",
        "rejected": "the wrong answers: a list of text",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt", "chosen (list)", "rejected (list)")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "id": "12",
            "prompt": "How many legs has a spider?",
            "chosen": ["Eight."],
            "rejected": ["Six.", "Ten.", "It has none."],
            "subset": "Factuality",
        },
        {
            "id": "ref:0",
            "prompt": "Name the largest planet of the solar system.",
            "chosen": ["Jupiter"],
            "rejected": ["Mars", "The Moon"],
            "subset": "Ties",
        },
        {
            "id": "tied:0",
            "prompt": "Name a planet of the solar system.",
            "chosen": ["Jupiter", "Venus", "Mars"],
            "rejected": ["The Moon", "Sirius"],
            "subset": "Ties",
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt with lists of chosen and rejected answers, and no domain (that is RM-Bench's)."""
        return "prompt" in row and has_lists(row) and "domain" not in row

    def parse(self, row: Mapping[str, Any]) -> Group:
        right, wrong = answers_of(row, "chosen"), answers_of(row, "rejected")
        return set_against(row["prompt"], right, wrong, self.plain_text)
