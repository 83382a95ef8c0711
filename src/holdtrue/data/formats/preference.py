"""Preference pairs as TRL writes them.

    prompt     text or messages; left out when chosen and rejected are whole conversations
    chosen     the preferred answer: text, messages or one message
    rejected   the other answer
    margin, weight, label (P(chosen) or "tie"), tie, rater       optional
    any other column is kept as metadata

Without a prompt, the prompt of two conversations is their longest common prefix, and two plain texts
are taken as they stand (prompt ``""``, never put through a chat template). Source:
https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, Content, content, is_dialogue
from holdtrue.data.formats import PAIR_COLUMNS, Format, divide, has_lists, pair, pairs, with_prompt
from holdtrue.records import Group, as_json


class Preference(Format):
    """``{prompt, chosen, rejected}`` with an explicit or implicit prompt, in text or messages."""

    columns: ClassVar[Mapping[str, str]] = PAIR_COLUMNS
    needs: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"prompt": "What colour is the sky?", "chosen": "Blue.", "rejected": "Green.", "margin": 0.5},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "chosen": [{"role": "assistant", "content": "4"}],
            "rejected": [{"role": "assistant", "content": "5"}],
            "label": 0.9,
            "topic": "sums",
        },
        {
            "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
            "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away."}],
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Chosen and rejected, neither a list of answers, and none nor the prompt a native HH-RLHF string.

        Without a prompt, ``instruction`` and ``conversations`` are those of LLaMA-Factory.
        """
        if "chosen" not in row or "rejected" not in row or has_lists(row):
            return False
        if "prompt" not in row and ("instruction" in row or "conversations" in row):
            return False
        return not any(is_dialogue(row.get(name)) for name in ("prompt", "chosen", "rejected"))

    def parse(self, row: Mapping[str, Any]) -> Group:
        chosen, rejected = content(row, "chosen"), content(row, "rejected")
        prompt: Content
        if row.get("prompt") is not None:
            prompt, (chosen, rejected) = with_prompt(row["prompt"], (chosen, rejected), self.plain_text)
        elif isinstance(chosen, str) and isinstance(rejected, str):
            if "prompt" in row:
                raise BadRow("missing field", "prompt is null")
            prompt = ""
        elif isinstance(chosen, str) or isinstance(rejected, str):
            raise BadRow("mixed text and messages", "without a prompt both sides must be of one form")
        else:
            if chosen == rejected:
                raise BadRow("identical sides")
            prompt, chosen, rejected = divide(chosen, rejected)
        return pair(prompt, chosen, rejected, row)

    def write(self, group: Group) -> list[dict[str, Any]]:
        """A row for each comparison, with an explicit prompt."""
        prompt = {"prompt": as_json(group.prompt)} if group.prompt else {}
        return [
            prompt | {"chosen": as_json(chosen), "rejected": as_json(rejected)} | columns
            for chosen, rejected, columns in pairs(group)
        ]
