"""Several answers to one prompt, without comparisons: what ``holdtrue score`` reads, and rated answers.

    prompt        text or messages
    completions   list of answers: text, messages or one message each
    ratings       optional list, one per answer: a number, a mapping of names to numbers, or null
    rater         optional: who gave the ratings, one name or a list with one per answer
    any other column is kept as metadata

Empty answers are kept: a policy can give them and a reward model must score them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, content, show
from holdtrue.data.formats import Format, kept, plain_ratings, rater, ratings, with_prompt
from holdtrue.records import Answer, Group, as_json


class Completions(Format):
    """``{prompt, completions[, ratings]}``: K answers to a prompt."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completions": "the answers: a list of text, messages or single messages",
        "ratings": "one number, mapping of names to numbers, or null per answer",
        "rater": "who gave the ratings: one name, or a list with one per answer",
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
        rated = row.get("ratings")
        if rated is None:
            rated = [None] * len(answers)
        if not isinstance(rated, list) or len(rated) != len(answers):
            raise BadRow(
                "ratings do not fit", f"{len(answers)} answers need as many ratings, got {show(rated)}"
            )
        who = row.get("rater")
        raters = who if isinstance(who, list) and len(who) == len(answers) else [who] * len(answers)
        return Group(
            prompt,
            tuple(
                Answer(answer, ratings(rating, "ratings"), rater=rater(one))
                for answer, rating, one in zip(answers, rated, raters, strict=True)
            ),
            meta=kept(row, "rater"),
        )

    def write(self, group: Group) -> list[dict[str, Any]]:
        """One row with all answers."""
        rated = [plain_ratings(answer) for answer in group.answers]
        raters = [answer.rater for answer in group.answers]
        row: dict[str, Any] = {
            "prompt": as_json(group.prompt),
            "completions": [as_json(answer.content) for answer in group.answers],
        }
        if any(rating is not None for rating in rated):
            row["ratings"] = rated
        if set(raters) != {None}:
            row["rater"] = raters[0] if len(set(raters)) == 1 else raters
        return [row]
