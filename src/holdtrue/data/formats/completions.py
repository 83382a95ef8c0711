"""Several answers to one prompt, without comparisons: what ``holdtrue score`` reads.

    prompt        text or messages
    completions   list of answers: text, messages or one message each
    ratings       optional list of numbers, one per answer (null where there is none)
    any other column is kept as metadata

Empty answers are kept: a policy can give them and a reward model must score them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, as_number, content, show
from holdtrue.data.formats import Format, with_prompt
from holdtrue.records import Answer, Group


class Completions(Format):
    """``{prompt, completions[, ratings]}``: K answers to a prompt."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completions": "the answers: a list of text, messages or single messages",
        "ratings": "one number (or null) per answer",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt", "completions")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompt": "Name a fruit.", "completions": ["Apple.", "Carrot.", ""]},
        {"prompt": "Name a fruit.", "completions": ["Plum.", "Stone."], "ratings": [1.0, None]},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completions": [[{"role": "assistant", "content": "4"}], {"role": "assistant", "content": "5"}],
            "policies": ["a", "b"],
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt and completions, and not a preference pair."""
        return "prompt" in row and "completions" in row and not ("chosen" in row and "rejected" in row)

    def parse(self, row: Mapping[str, Any]) -> Group:
        found = row["completions"]
        if not isinstance(found, list) or not found:
            raise BadRow("wrong type", f"completions is {show(found)}, expected a list of answers")
        answers = [content({f"completions[{i}]": a}, f"completions[{i}]") for i, a in enumerate(found)]
        if row["prompt"] is None:
            raise BadRow("missing field", "prompt is null")
        prompt, answers = with_prompt(row["prompt"], answers, self.plain_text)
        ratings = row.get("ratings")
        if ratings is None:
            ratings = [None] * len(answers)
        if not isinstance(ratings, list) or len(ratings) != len(answers):
            raise BadRow(
                "ratings do not fit", f"{len(answers)} answers need as many ratings, got {show(ratings)}"
            )
        return Group(
            prompt,
            tuple(
                Answer(answer, {} if rating is None else {"rating": as_number(rating, "ratings")})
                for answer, rating in zip(answers, ratings, strict=True)
            ),
        )
