"""Single answers marked good or bad, unpaired: TRL's "unpaired preference", as KTO reads it.

    prompt, completion   text or messages each
    messages             or the whole conversation; its last turn, of the assistant, is the answer
    label                true for a good answer, false for a bad one (1 and 0 are taken too)
    rater                optional: who said so
    any other column is kept as metadata

A label that is text is another thing (a verdict of the doctor, say): such rows are ``completion``. Source:
https://huggingface.co/docs/trl/dataset_formats#unpaired-preference
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, option, rater
from holdtrue.data.formats import Format, kept
from holdtrue.data.formats._answers import layout_of, one_answer
from holdtrue.records import Answer, Group, as_json


class Unpaired(Format):
    """``{prompt, completion, label}`` or ``{messages, label}``: an answer that is good or bad."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completion": "the answer: text, messages or one message",
        "messages": "instead of both: the conversation, ending with the answer",
        "label": "true for a good answer, false for a bad one",
        "rater": "who said so",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt and completion, or messages", "label (boolean)")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompt": "Name a fruit.", "completion": "Apple.", "label": True},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completion": [{"role": "assistant", "content": "5"}],
            "label": False,
        },
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away."}],
            "label": 0,
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """One answer and a label that is not text."""
        return layout_of(row) == "unpaired"

    def parse(self, row: Mapping[str, Any]) -> Group:
        label = option(row, "label", {True: True, False: False})
        prompt, answer = one_answer(row, self.plain_text)
        return Group(
            prompt, (Answer(answer, label=label, rater=rater(row.get("rater"))),), meta=kept(row, "rater")
        )

    def write(self, group: Group) -> list[dict[str, Any]]:
        """A row for each answer with a label. Without one of its own, an answer that only won is good and one
        that only lost bad (so pairs become unpaired as TRL's ``unpair_preference_dataset`` makes them)."""
        decided = [c.preferred for c in group.comparisons if c.preferred]
        won, lost = {better for better, _ in decided}, {worse for _, worse in decided}
        rows = []
        for i, answer in enumerate(group.answers):
            label = answer.label
            if label is None and (i in won) != (i in lost):
                label = i in won
            if label is not None:
                row = {"prompt": as_json(group.prompt), "completion": as_json(answer.content), "label": label}
                rows.append(row | ({} if answer.rater is None else {"rater": answer.rater}))
        if not rows:
            raise BadRow("no label")
        return rows
