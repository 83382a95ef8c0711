"""Answers rated on five attributes: HelpSteer and HelpSteer2.

    prompt        text; turns after the first follow ``<extra_id_1>User`` and ``<extra_id_1>Assistant``
    response      the answer, text
    helpfulness, correctness, coherence, complexity, verbosity      numbers (0 to 4) or null
    any other column is kept as metadata

The attributes become ratings of the same names. They give no comparisons: which of them matter, and with
which sign, is for the one who trains to say. Sources: https://huggingface.co/datasets/nvidia/HelpSteer2,
arXiv 2311.09528, 2406.08673
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import content, scores
from holdtrue.data.formats import Format, holds, with_prompt
from holdtrue.records import Answer, Group

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_TURN = re.compile(r"<extra_id_1>(User|Assistant)\n?")


class HelpSteer(Format):
    """``{prompt, response, helpfulness, ...}``: an answer and its five attributes."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "response": "the answer, text",
        **dict.fromkeys(ATTRIBUTES, "a number (0 to 4) or null"),
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt", "response", "helpfulness")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "prompt": "Name a fruit.",
            "response": "Apple.",
            "helpfulness": 4,
            "correctness": 4,
            "coherence": 4,
            "complexity": 0,
            "verbosity": 1,
        },
        {
            "prompt": "Name a fruit.",
            "response": "Fruit is a topic with a long history.",
            "helpfulness": 0,
            "correctness": 1,
            "coherence": 3,
            "complexity": 2,
            "verbosity": 3,
        },
        {
            "prompt": "Hi<extra_id_1>Assistant\nHello!<extra_id_1>User\n2 + 2?",
            "response": "4",
            "helpfulness": 3.5,
            "correctness": None,
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt, response and helpfulness."""
        return holds(row, *cls.needs)

    def parse(self, row: Mapping[str, Any]) -> Group:
        answer = content(row, "response")
        prompt, (answer,) = with_prompt(turns(row["prompt"]), (answer,), self.plain_text)
        return Group(prompt, (Answer(answer, scores({name: row.get(name) for name in ATTRIBUTES})),))


def turns(prompt: Any) -> Any:
    """The prompt as messages where HelpSteer2 marks its turns, else as it is."""
    if not isinstance(prompt, str) or not _TURN.search(prompt):
        return prompt
    first, *rest = _TURN.split(prompt)
    found = [("User", first), *zip(rest[::2], rest[1::2], strict=True)]
    if found[-1] == ("Assistant", ""):  # only announces the answer
        found.pop()
    return [{"role": speaker.lower(), "content": words} for speaker, words in found]
