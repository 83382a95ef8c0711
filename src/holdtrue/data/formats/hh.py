"""Pairs in the native form of Anthropic's HH-RLHF: whole dialogues as text.

    chosen     "\\n\\nHuman: ...\\n\\nAssistant: ..." with the preferred last turn
    rejected   the same dialogue with the other one
    prompt     optional: the dialogue up to "\\n\\nAssistant:"; chosen and rejected are then only answers
    margin, weight, label, tie, rater       optional, as in ``preference``

The dialogues become messages and the prompt is their longest common prefix of whole turns, so rows
whose sides part before the last turn are kept. With ``plain_text: raw`` the text stays as it is and
is divided after the last common turn marker. Source: https://github.com/anthropics/hh-rlhf
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import (
    ROLES,
    BadRow,
    Content,
    common_length,
    content,
    dialogue,
    is_dialogue,
    last_mark,
    show,
)
from holdtrue.data.formats import PAIR_COLUMNS, Format, divide, has_lists, pair, pairs, with_prompt
from holdtrue.records import Group, Messages


class HH(Format):
    """``{chosen, rejected}`` dialogues as ``"\\n\\nHuman: ...\\n\\nAssistant: ..."`` strings."""

    columns: ClassVar[Mapping[str, str]] = PAIR_COLUMNS
    needs: ClassVar[tuple[str, ...]] = ("chosen (dialogue)", "rejected (dialogue)")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "chosen": "\n\nHuman: Is tea hot?\n\nAssistant: Usually, yes.",
            "rejected": "\n\nHuman: Is tea hot?\n\nAssistant: No idea.",
        },
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Bye\n\nAssistant: See you.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: What?\n\nHuman: Nothing\n\nAssistant: Fine.",
        },
        {"prompt": "\n\nHuman: 2 + 2?\n\nAssistant:", "chosen": " 4", "rejected": " 5", "weight": 2},
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Chosen and rejected, where one of them or the prompt is a native HH-RLHF string."""
        if "chosen" not in row or "rejected" not in row or has_lists(row):
            return False
        return any(is_dialogue(row.get(name)) for name in ("prompt", "chosen", "rejected"))

    def parse(self, row: Mapping[str, Any]) -> Group:
        chosen, rejected = content(row, "chosen"), content(row, "rejected")
        if not (isinstance(chosen, str) and isinstance(rejected, str)):
            raise BadRow("mixed text and messages", f"a dialogue in text beside {show(row['rejected'])}")
        if chosen == rejected:
            raise BadRow("identical sides")
        prompt: Content
        one: Content
        other: Content
        if is_dialogue(row.get("prompt")):
            if self.plain_text == "chat":
                chosen, rejected = chosen.strip(), rejected.strip()
            prompt, (one, other) = with_prompt(row["prompt"], (chosen, rejected), self.plain_text)
        else:
            first, second = dialogue(chosen, "chosen"), dialogue(rejected, "rejected")
            if first == second:
                raise BadRow("identical sides")
            prompt, one, other = divide(first, second)
            if self.plain_text == "raw":
                cut = last_mark(chosen, common_length(chosen, rejected))
                prompt, one, other = chosen[:cut], chosen[cut:], rejected[cut:]
        return pair(prompt, one, other, row)

    def write(self, group: Group) -> list[dict[str, Any]]:
        """A row of two whole dialogues for each comparison."""
        return [
            {
                "chosen": _native(group.prompt) + _native(chosen),
                "rejected": _native(group.prompt) + _native(rejected),
            }
            | columns
            for chosen, rejected, columns in pairs(group)
        ]


def _native(content: Messages | str) -> str:
    """Turns as HH-RLHF writes them."""
    if isinstance(content, str):
        return content
    marks = {role: mark for mark, role in ROLES.items()}
    if strange := {turn.role for turn in content} - set(marks):
        raise BadRow(f"{min(strange)} turns, which hh does not have")
    return "".join(f"\n\n{marks[turn.role]}: {turn.content.strip()}" for turn in content)
