"""One answer to a prompt: what ``holdtrue score`` reads.

    prompt, completion   text or messages each
    messages             or the whole conversation; its last turn, of the assistant, is the answer
    any other column is kept as metadata

An empty answer is kept: a policy can give it and a reward model must score it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, content, messages
from holdtrue.data.formats import Format, ended, with_prompt
from holdtrue.records import Answer, Group


class Completion(Format):
    """``{prompt, completion}`` or ``{messages}``: a prompt and its one answer."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completion": "the answer: text, messages or one message",
        "messages": "instead of both: the conversation, ending with the answer",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt and completion, or messages",)
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompt": "Name a fruit.", "completion": "Apple.", "policy": "small"},
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
        """Prompt and completion, or messages, in a row that is neither a pair nor a list of answers."""
        if ("chosen" in row and "rejected" in row) or ("prompt" in row and "completions" in row):
            return False
        return "messages" in row or ("prompt" in row and "completion" in row)

    def parse(self, row: Mapping[str, Any]) -> Group:
        if "completion" in row and "prompt" in row:
            if row["prompt"] is None:
                raise BadRow("missing field", "prompt is null")
            prompt, (answer,) = with_prompt(row["prompt"], (content(row, "completion"),), self.plain_text)
            return Group(prompt, (Answer(answer),))
        if row["messages"] is None:
            raise BadRow("missing field", "messages is null")
        turns = messages(row["messages"], "messages")
        last = ended(turns[-1:])
        if not any(turn.content.strip() for turn in turns[:-1]):
            raise BadRow("empty prompt", "the answer is the only turn")
        return Group(turns[:-1], (Answer(last),))
