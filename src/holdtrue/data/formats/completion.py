"""One answer to a prompt: what ``holdtrue score`` reads.

    prompt, completion   text or messages each
    messages             or the whole conversation; its last turn, of the assistant, is the answer
    rating               optional number, higher is better
    any other column is kept as metadata

An empty answer is kept: a policy can give it and a reward model must score it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import number
from holdtrue.data.formats import Format
from holdtrue.data.formats._answers import layout_of, one_answer
from holdtrue.records import Answer, Group


class Completion(Format):
    """``{prompt, completion[, rating]}`` or ``{messages}``: a prompt and its one answer."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completion": "the answer: text, messages or one message",
        "messages": "instead of both: the conversation, ending with the answer",
        "rating": "how good the answer is, a number",
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
        return Group(prompt, (Answer(answer, {} if rating is None else {"rating": rating}),))
