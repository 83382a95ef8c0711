"""Several answers to one prompt, rated or ranked by one rater, or only to be scored.

    prompt        text or messages
    completions   list of answers: text, messages or one message each
    ratings       optional list of numbers, one per answer (null where there is none), higher is better
    ranks         instead: the lowest rank is the best answer's, equal ranks are not ordered
    rater         optional: who rated or ranked
    any other column is kept as metadata

Ranks become ratings (minus the rank), and any two answers rated differently a comparison; all
comparisons of a row together weigh 1. Empty answers are kept: a policy can give them and a reward
model must score them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, contents, numbers, text
from holdtrue.data.formats import Format, ranked, with_prompt
from holdtrue.data.formats._answers import layout_of
from holdtrue.records import Answer, Group


class Completions(Format):
    """``{prompt, completions[, ratings or ranks]}``: K answers to a prompt."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completions": "the answers: a list of text, messages or single messages",
        "ratings": "one number (or null) per answer, higher is better",
        "ranks": "instead of ratings: one number (or null) per answer, the lowest is best",
        "rater": "who gave them, text",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt", "completions")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompt": "Name a fruit.", "completions": ["Apple.", "Carrot.", ""], "ranks": [1, 2, 2]},
        {"prompt": "Name a fruit.", "completions": ["Plum.", "Stone."], "ratings": [1.0, None]},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completions": [[{"role": "assistant", "content": "4"}], {"role": "assistant", "content": "5"}],
            "policies": ["a", "b"],
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt and completions, in a row of which no other layout knows more."""
        return layout_of(row) == "completions"

    def parse(self, row: Mapping[str, Any]) -> Group:
        found = contents(row, "completions")
        prompt, answers = with_prompt(row["prompt"], found, self.plain_text)
        ratings, ranks = (numbers(row, column, len(answers)) for column in ("ratings", "ranks"))
        if row.get("ranks") is not None:
            if row.get("ratings") is not None:
                raise BadRow(
                    "both ratings and ranks", "answers are ordered by one of them, leave out the other"
                )
            ratings = [None if rank is None else -rank for rank in ranks]
        rater = None if row.get("rater") is None else text(row, "rater")
        return ranked(
            prompt,
            [
                Answer(answer, {} if rating is None else {"rating": rating}, rater=rater)
                for answer, rating in zip(answers, ratings, strict=True)
            ],
        )
