"""Several answers to one prompt, rated or ranked, or only to be scored.

    prompt        text or messages
    completions   list of answers: text, messages or one message each
    ratings       optional list, one per answer, higher is better: a number, {name: number}, or null
    ranks         instead: the lowest rank is the best answer's, equal ranks are not ordered
    rater         optional: who rated or ranked, one name or a list with one per answer
    any other column is kept as metadata

Ranks become ratings (minus the rank), and any two answers rated differently by one rater a comparison; all
comparisons of a row together weigh 1. A number is the rating called "rating"; ratings of other names give no
comparisons. Empty answers are kept: a policy can give them and a reward model must score them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, as_number, contents, numbers, per_answer, rater, scores
from holdtrue.data.formats import Format, kept, ranked, with_prompt
from holdtrue.data.formats._answers import layout_of
from holdtrue.records import Answer, Group, as_json


class Completions(Format):
    """``{prompt, completions[, ratings or ranks]}``: K answers to a prompt."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completions": "the answers: a list of text, messages or single messages",
        "ratings": "one number, mapping of names to numbers, or null per answer, higher is better",
        "ranks": "instead of ratings: one number (or null) per answer, the lowest is best",
        "rater": "who gave them: one name, or a list with one per answer",
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
        who = row.get("rater")
        raters = per_answer(row, "rater", len(answers)) if isinstance(who, list) else [who] * len(answers)
        group = ranked(
            prompt,
            [
                Answer(answer, ratings, rater=rater(one))
                for answer, ratings, one in zip(answers, _ratings(row, len(answers)), raters, strict=True)
            ],
        )
        return replace(group, meta=kept(row, "rater"))

    def write(self, group: Group) -> list[dict[str, Any]]:
        """One row with all answers."""
        rated = [_plain(answer) for answer in group.answers]
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


def _ratings(row: Mapping[str, Any], count: int) -> list[dict[str, float]]:
    """Ratings of each answer by name, from the column that the row orders its answers by."""
    ratings, ranks = per_answer(row, "ratings", count), numbers(row, "ranks", count)
    if row.get("ranks") is not None:
        if row.get("ratings") is not None:
            raise BadRow("both ratings and ranks", "answers are ordered by one of them, leave out the other")
        return [{} if rank is None else {"rating": -rank} for rank in ranks]
    return [_by_name(rating) for rating in ratings]


def _by_name(rating: Any) -> dict[str, float]:
    if isinstance(rating, Mapping):
        return scores(rating)
    return {} if rating is None else {"rating": as_number(rating, "ratings")}


def _plain(answer: Answer) -> Any:
    """What :func:`_by_name` reads: a number where that says all."""
    if answer.ratings.keys() <= {"rating"}:
        return answer.ratings.get("rating")
    return dict(answer.ratings)
