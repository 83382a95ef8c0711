"""Ranked answers as NeMo-RL reads them for reward models and DPO.

    context       the prompt, messages
    completions   objects with rank (the lowest is preferred) and completion (messages)
    any other column is kept as metadata

Any two answers of different rank become a comparison, all of a row together weigh 1 (NeMo-RL itself trains
on rows of two). Source: https://docs.nvidia.com/nemo/rl/latest/guides/dpo.html#datasets
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, content, number, objects
from holdtrue.data.formats import Format, holds, ranked, with_prompt
from holdtrue.records import Answer, Group


class NeMo(Format):
    """``{context, completions: [{rank, completion}]}``: K answers in order of preference."""

    columns: ClassVar[Mapping[str, str]] = {
        "context": "the prompt: messages",
        "completions": "objects with rank (the lowest is best) and completion (messages)",
    }
    needs: ClassVar[tuple[str, ...]] = ("context", "completions (objects)")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "context": [{"role": "user", "content": "2 + 2?"}],
            "completions": [
                {"rank": 0, "completion": [{"role": "assistant", "content": "4"}]},
                {"rank": 1, "completion": [{"role": "assistant", "content": "5"}]},
            ],
        },
        {
            "context": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "completions": [
                {"rank": 2, "completion": [{"role": "assistant", "content": "Go away."}]},
                {"rank": 0, "completion": [{"role": "assistant", "content": "Hello!"}]},
                {"rank": 1, "completion": [{"role": "assistant", "content": "Hello and welcome to this!"}]},
            ],
            "task_name": "demo",
        },
        {
            "context": [{"role": "user", "content": "Name a fruit."}],
            "completions": [{"rank": 0, "completion": [{"role": "assistant", "content": "Apple."}]}],
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Context and completions, without a prompt or an instruction."""
        return holds(row, "context", "completions") and "prompt" not in row and "instruction" not in row

    def parse(self, row: Mapping[str, Any]) -> Group:
        found = objects(row, "completions", "objects with rank and completion")
        texts = [content(completion, "completion") for completion in found]
        prompt, answers = with_prompt(row["context"], texts, self.plain_text, "context")
        ratings = [{"rating": -_rank(completion)} for completion in found]
        return ranked(prompt, [Answer(a, rating) for a, rating in zip(answers, ratings, strict=True)])


def _rank(completion: Mapping[str, Any]) -> float:
    rank = number(completion, "rank")
    if rank is None:
        raise BadRow("missing field", f"rank is {'null' if 'rank' in completion else 'not there'}")
    return rank
