"""Comments compared by votes: Stanford Human Preferences (SHP and SHP-2).

    history       the post, text
    human_ref_A   one comment, text
    human_ref_B   the other
    labels        1 when A is preferred, 0 when B is
    any other column (score_A, score_B, domain, ...) is kept as metadata

Source: https://huggingface.co/datasets/stanfordnlp/SHP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import option, text
from holdtrue.data.formats import Format, holds, pair, with_prompt
from holdtrue.records import Group


class SHP(Format):
    """``{history, human_ref_A, human_ref_B, labels}``: two comments on a post."""

    columns: ClassVar[Mapping[str, str]] = {
        "history": "the post, text",
        "human_ref_A": "one comment, text",
        "human_ref_B": "the other comment, text",
        "labels": "1 when A is preferred, 0 when B is",
    }
    needs: ClassVar[tuple[str, ...]] = ("history", "human_ref_A", "human_ref_B", "labels")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "history": "How long do eggs boil?",
            "human_ref_A": "Seven minutes.",
            "human_ref_B": "Depends.",
            "labels": 1,
            "score_A": 12,
            "score_B": 3,
        },
        {"history": "Best knife?", "human_ref_A": "A big one.", "human_ref_B": "A sharp one.", "labels": 0},
        {
            "history": "Why salt?",
            "human_ref_A": "Taste.",
            "human_ref_B": "Why not?",
            "labels": 1,
            "domain": "cooking_train",
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """History, both comments and labels."""
        return holds(row, *cls.needs)

    def parse(self, row: Mapping[str, Any]) -> Group:
        answers = [text(row, "human_ref_A"), text(row, "human_ref_B")]
        label = option(row, "labels", {1: 1.0, 0: 0.0})
        prompt, (one, other) = with_prompt(text(row, "history"), answers, self.plain_text)
        return pair(prompt, one, other, {"label": label})
