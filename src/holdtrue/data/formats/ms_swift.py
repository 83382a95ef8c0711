"""Pairs as ms-swift has them: a conversation and what was rejected.

    messages            the conversation, ending with the preferred answer
    rejected_response   the other answer, text
    rejected_messages   or the other conversation; the prompt is then the longest common prefix
    margin              optional, how far apart the rewards should be
    any other column is kept as metadata

Source: https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, messages, text
from holdtrue.data.formats import Format, divide, ended, pair
from holdtrue.data.formats._answers import layout_of
from holdtrue.records import Group, Message


class MSSwift(Format):
    """``{messages, rejected_response}`` or ``{messages, rejected_messages}``."""

    columns: ClassVar[Mapping[str, str]] = {
        "messages": "the conversation, ending with the preferred answer",
        "rejected_response": "the other answer, text",
        "rejected_messages": "instead: the conversation, ending with the other answer",
        "margin": "how far apart the rewards should be (reward units)",
    }
    needs: ClassVar[tuple[str, ...]] = ("messages", "rejected_response or rejected_messages")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
            "rejected_response": "5",
        },
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
            "rejected_messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Go away."},
            ],
            "margin": 1.5,
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Name a fruit."},
                {"role": "assistant", "content": "Apple."},
                {"role": "user", "content": "Another."},
                {"role": "assistant", "content": "Plum."},
            ],
            "rejected_response": "Of fruit there are many kinds.",
            "topic": "fruit",
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Messages, and a rejected response or conversation."""
        return layout_of(row) == "ms_swift"

    def parse(self, row: Mapping[str, Any]) -> Group:
        if row["messages"] is None:
            raise BadRow("missing field", "messages is null")
        conversation = ended(messages(row["messages"], "messages"))
        if row.get("rejected_messages") is not None:
            other = messages(row["rejected_messages"], "rejected_messages")
            if other == conversation:
                raise BadRow("identical sides")
            prompt, chosen, rejected = divide(conversation, other)
        else:
            rejected = (Message("assistant", text(row, "rejected_response")),)
            prompt, chosen = conversation[:-1], conversation[-1:]
        if not any(turn.content.strip() for turn in prompt):
            raise BadRow("empty prompt")
        return pair(prompt, chosen, rejected, {"margin": row.get("margin")})
