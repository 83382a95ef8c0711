"""Pairs as LLaMA-Factory has them, in its alpaca and its sharegpt form.

    instruction, input   alpaca: the request and, on a new line, what it is about (optional)
    history              earlier turns, a list of [request, answer] (optional)
    conversations        sharegpt: the prompt, a list of {from, value} or of messages
    system               the system prompt (optional)
    chosen, rejected     the answers: text, {from, value} or messages
    margin, weight, label, tie, rater       optional, as in ``preference``

Rows that have a ``prompt`` as well are ``preference``. Speakers are human, gpt and system. Source:
https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, content, is_dialogue, items, show, text
from holdtrue.data.formats import PAIR_COLUMNS, Format, pair, with_prompt
from holdtrue.records import Group

_SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}


class LlamaFactory(Format):
    """``{instruction, input, chosen, rejected}`` or ``{conversations, chosen, rejected}``."""

    columns: ClassVar[Mapping[str, str]] = {
        "instruction": "the request, text",
        "input": "what it is about, text",
        "history": "earlier turns: a list of [request, answer]",
        "conversations": "instead of these: the prompt as a list of {from, value}",
        "system": "the system prompt, text",
        **{name: holds for name, holds in PAIR_COLUMNS.items() if name != "prompt"},
    }
    needs: ClassVar[tuple[str, ...]] = ("instruction or conversations", "chosen", "rejected", "no prompt")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "instruction": "Correct this.",
            "input": "2 + 2 = 5",
            "chosen": "2 + 2 = 4",
            "rejected": "It is right.",
        },
        {
            "instruction": "Another.",
            "input": "",
            "system": "Be brief.",
            "history": [["Name a fruit.", "Apple."]],
            "chosen": "Plum.",
            "rejected": "Apple.",
        },
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello!"},
            "rejected": {"from": "gpt", "value": "Go away."},
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Chosen and rejected with instruction or conversations, without a prompt or dialogues in text."""
        if "chosen" not in row or "rejected" not in row or "prompt" in row:
            return False
        named = "instruction" in row or "conversations" in row
        return named and not (is_dialogue(row["chosen"]) or is_dialogue(row["rejected"]))

    def parse(self, row: Mapping[str, Any]) -> Group:
        sides = [content({name: _translated(row[name])}, name) for name in ("chosen", "rejected")]
        prompt, (chosen, rejected) = with_prompt(_prompt(row), sides, self.plain_text)
        return pair(prompt, chosen, rejected, row)


def _prompt(row: Mapping[str, Any]) -> Any:
    """Text where there is only an instruction, else a list of messages."""
    turns = [{"role": "system", "content": text(row, "system")}] if row.get("system") else []
    if row.get("conversations") is not None:
        return turns + _translated(items(row, "conversations", "turns"))
    for exchange in items(row, "history", "[request, answer]") if row.get("history") else []:
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise BadRow("wrong type", f"history holds {show(exchange)}, expected [request, answer]")
        turns += [
            {"role": role, "content": words}
            for role, words in zip(("user", "assistant"), exchange, strict=True)
        ]
    request = text(row, "instruction")
    if row.get("input"):
        request += "\n" + text(row, "input")
    return [*turns, {"role": "user", "content": request}] if turns else request


def _translated(value: Any) -> Any:
    """``{from, value}`` turns as messages; anything else as it is."""
    if isinstance(value, list):
        return [_translated(turn) for turn in value]
    if not isinstance(value, Mapping) or "from" not in value:
        return value
    speaker = value["from"]
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise BadRow("unknown speaker", f"a turn is from {show(speaker)}, known are {', '.join(_SPEAKERS)}")
    return {"role": _SPEAKERS[speaker], "content": value.get("value")}
