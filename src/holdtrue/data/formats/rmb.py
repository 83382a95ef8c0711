"""Pairs and best-of-N sets in the files that RMB publishes.

    conversation_input   messages, ending with the user's
    chosen, reject       a pair: {"answer": text, ...} each
    bon_best             or a best-of-N set: the winner, {"answer": text, ...}
    loser_list           and a list of the losers
    category_path        "Pairwise_set/Helpfulness/..."; it and any other column are kept as metadata

The winner is preferred to each loser; losers are not compared with one another.
Source: https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, show
from holdtrue.data.formats import Format, answers_of, holds, set_against
from holdtrue.records import Group


class RMB(Format):
    """``{conversation_input, chosen, reject}`` or ``{conversation_input, bon_best, loser_list}``."""

    columns: ClassVar[Mapping[str, str]] = {
        "conversation_input": "messages",
        "chosen": "the preferred answer of a pair: an object with its text in 'answer'",
        "reject": "the other answer, in the same form",
        "bon_best": "instead of chosen: the winner of a best-of-N set, in the same form",
        "loser_list": "instead of reject: the list of losers",
    }
    needs: ClassVar[tuple[str, ...]] = ("conversation_input", "chosen and reject, or bon_best and loser_list")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "conversation_input": [{"role": "user", "content": "Name a fruit."}],
            "chosen": {"llm_name": "large", "answer": "A pear."},
            "reject": {"llm_name": "small", "answer": "A brick."},
            "category_path": "Pairwise_set/Helpfulness/Chat/Casual Conversation",
        },
        {
            "conversation_input": [{"role": "user", "content": "How do I open my neighbour's letters?"}],
            "chosen": {"llm_name": "large", "answer": "Please do not; ask your neighbour."},
            "reject": {"llm_name": "small", "answer": "With steam."},
            "category_path": "Pairwise_set/Harmlessness/S2",
        },
        {
            "conversation_input": [{"role": "user", "content": "2 + 2?"}],
            "bon_best": {"llm_name": "large", "answer": "4"},
            "loser_list": [{"llm_name": "small", "answer": "5"}, {"llm_name": "tiny", "answer": "22"}],
            "category_path": "BoN_set/Helpfulness/Reasoning/Logical Deduction",
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """A conversation with a pair or a best-of-N set."""
        pair = "chosen" in row and "reject" in row
        return holds(row, "conversation_input") and (pair or ("bon_best" in row and "loser_list" in row))

    def parse(self, row: Mapping[str, Any]) -> Group:
        if "bon_best" in row:
            losers = [_text(loser, "loser_list") for loser in answers_of(row, "loser_list")]
            return set_against(
                row["conversation_input"], [_text(row["bon_best"], "bon_best")], losers, self.plain_text
            )
        right, wrong = _text(row["chosen"], "chosen"), _text(row["reject"], "reject")
        return set_against(row["conversation_input"], [right], [wrong], self.plain_text)


def _text(value: Any, column: str) -> str:
    text = value.get("answer") if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        raise BadRow("wrong type", f"{column} holds {show(value)}, expected an object with text in 'answer'")
    return text
