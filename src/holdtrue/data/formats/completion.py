"""One answer to a prompt, perhaps with a verdict: what ``holdtrue score`` reads, and unpaired data.

    prompt, completion   text or messages each
    messages             or the whole conversation; its last turn, of the assistant, is the answer
    label                optional: true for a good answer, false for a bad one
    rating               optional: a number, or a mapping of names to numbers
    rater                optional: who gave label and rating
    any other column is kept as metadata, also label and rating of other types

An empty answer is kept: a policy can give it and a reward model must score it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, Content, content, messages
from holdtrue.data.formats import Format, ended, kept, plain_ratings, rater, ratings, with_prompt
from holdtrue.records import Answer, Group, as_json


class Completion(Format):
    """``{prompt, completion[, label, rating]}`` or ``{messages}``: a prompt and its one answer."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completion": "the answer: text, messages or one message",
        "messages": "instead of both: the conversation, ending with the answer",
        "label": "true for a good answer, false for a bad one; of another type it is metadata",
        "rating": "a number, or a mapping of names to numbers; of another type it is metadata",
        "rater": "who gave label and rating",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt and completion, or messages",)
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompt": "Name a fruit.", "completion": "Apple.", "policy": "small"},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
            "label": True,
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
        """Prompt and completion, or messages, in a row that is neither a pair nor a list of answers."""
        if ("chosen" in row and "rejected" in row) or ("prompt" in row and "completions" in row):
            return False
        return "messages" in row or ("prompt" in row and "completion" in row)

    def parse(self, row: Mapping[str, Any]) -> Group:
        if "completion" in row and "prompt" in row:
            if row["prompt"] is None:
                raise BadRow("missing field", "prompt is null")
            prompt, (answer,) = with_prompt(row["prompt"], (content(row, "completion"),), self.plain_text)
            return _rated(prompt, answer, row)
        if row["messages"] is None:
            raise BadRow("missing field", "messages is null")
        turns = messages(row["messages"], "messages")
        last = ended(turns[-1:])
        if not any(turn.content.strip() for turn in turns[:-1]):
            raise BadRow("empty prompt", "the answer is the only turn")
        return _rated(turns[:-1], last, row)

    def write(self, group: Group) -> list[dict[str, Any]]:
        """A row for each answer. Without a label of its own, an answer that only won is good, one that only
        lost is bad (so pairs become unpaired data as TRL's ``unpair_preference_dataset`` makes it)."""
        decided = [c.preferred for c in group.comparisons if c.preferred]
        won, lost = {better for better, _ in decided}, {worse for _, worse in decided}
        rows = []
        for i, answer in enumerate(group.answers):
            label = answer.label
            if label is None and (i in won) != (i in lost):
                label = i in won
            columns = {"label": label, "rating": plain_ratings(answer), "rater": answer.rater}
            rows.append(
                {"prompt": as_json(group.prompt), "completion": as_json(answer.content)}
                | {name: value for name, value in columns.items() if value is not None}
            )
        return rows


def _rated(prompt: Content, answer: Content, row: Mapping[str, Any]) -> Group:
    """The group with what the row says of its answer; label and rating of other types are metadata."""
    label, rated = row.get("label"), dict[str, float]()
    meta = kept(row, "rater")
    if label is not None and not isinstance(label, bool):
        meta["label"], label = label, None
    try:
        rated = ratings(row.get("rating"), "rating")
    except BadRow:
        meta["rating"] = row["rating"]
    return Group(prompt, (Answer(answer, rated, label, rater=rater(row.get("rater"))),), meta=meta)
