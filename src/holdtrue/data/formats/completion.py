"""One answer to a prompt, perhaps with a rating: what ``holdtrue score`` reads.

    prompt, completion   text or messages each
    messages             or the whole conversation; its last turn, of the assistant, is the answer
    rating               optional number, higher is better
    rater                optional: who gave it
    any other column is kept as metadata, also a label that is text

An empty answer is kept: a policy can give it and a reward model must score it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import number, rater
from holdtrue.data.formats import Format, kept
from holdtrue.data.formats._answers import layout_of, one_answer
from holdtrue.records import Answer, Group, as_json


class Completion(Format):
    """``{prompt, completion[, rating]}`` or ``{messages}``: a prompt and its one answer."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completion": "the answer: text, messages or one message",
        "messages": "instead of both: the conversation, ending with the answer",
        "rating": "how good the answer is, a number",
        "rater": "who rated it",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt and completion, or messages",)
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompt": "Name a fruit.", "completion": "Apple.", "policy": "small", "rating": 4.5},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!"},
            ]
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt and completion, or messages, in a row of which no other layout knows more."""
        return layout_of(row) == "completion"

    def parse(self, row: Mapping[str, Any]) -> Group:
        prompt, answer = one_answer(row, self.plain_text)
        rating = number(row, "rating")
        ratings = {} if rating is None else {"rating": rating}
        return Group(
            prompt, (Answer(answer, ratings, rater=rater(row.get("rater"))),), meta=kept(row, "rater")
        )

    def write(self, group: Group) -> list[dict[str, Any]]:
        """A row for each answer."""
        rows = []
        for answer in group.answers:
            columns = {"rating": answer.ratings.get("rating"), "rater": answer.rater}
            rows.append(
                {"prompt": as_json(group.prompt), "completion": as_json(answer.content)}
                | {name: value for name, value in columns.items() if value is not None}
            )
        return rows
