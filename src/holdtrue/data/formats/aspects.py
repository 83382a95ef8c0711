"""Scores of several aspects per answer, not all of which need have been judged.

    prompt, completions   K answers; labels is then {aspect: [one number or null per answer]}
    prompt, completion    one answer; labels is then {aspect: number or null}
    messages              or the whole conversation; its last turn, of the assistant, is the answer
    labels                the scores, higher is better; also read from ratings
    any other column is kept as metadata

Mixtures of data sets that judge different aspects have many nulls: such an answer has no rating of that
aspect (ArmoRM, arXiv 2406.12845). An aspect called ``rating`` is the overall rating and gives
comparisons between the answers, as in ``completions``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import contents, numbers, scores
from holdtrue.data.formats import Format, ranked, with_prompt
from holdtrue.data.formats._answers import aspect_column, layout_of, one_answer
from holdtrue.records import Answer, Group


class Aspects(Format):
    """``{prompt, completions, labels: {aspect: [...]}}`` or ``{messages, labels: {aspect: number}}``."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completions": "the answers: a list of text, messages or single messages",
        "completion": "instead of completions: one answer",
        "messages": "instead of prompt and answer: the conversation, ending with the answer",
        "labels": "aspect -> number or null; with completions a list of them, one per answer",
        "ratings": "another name for labels",
    }
    needs: ClassVar[tuple[str, ...]] = (
        "prompt and completions, prompt and completion, or messages",
        "labels or ratings (an object)",
    )
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "prompt": "Is tea hot?",
            "completions": ["Usually.", "Tea is a drink.", "No."],
            "labels": {"truthful": [1.0, 1.0, 0.0], "informative": [0.8, 0.1, None]},
        },
        {
            "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
            "ratings": {"helpfulness": 4, "verbosity": 0, "safety": None},
        },
        {"prompt": "Name a fruit.", "completion": "Apple.", "labels": {"correct": 1}, "origin": "demo"},
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Answers, and an object in labels or ratings."""
        return layout_of(row) == "aspects"

    def parse(self, row: Mapping[str, Any]) -> Group:
        column = aspect_column(row) or "labels"
        labels: Mapping[str, Any] = row[column]
        if "completions" not in row:
            prompt, answer = one_answer(row, self.plain_text)
            return Group(prompt, (Answer(answer, scores(labels)),))
        found = contents(row, "completions")
        prompt, answers = with_prompt(row["prompt"], found, self.plain_text)
        table = {
            aspect: numbers({f"{column} of {aspect}": values}, f"{column} of {aspect}", len(answers))
            for aspect, values in labels.items()
        }
        ratings = [
            scores({aspect: values[i] for aspect, values in table.items()}) for i in range(len(answers))
        ]
        return ranked(prompt, [Answer(a, given) for a, given in zip(answers, ratings, strict=True)])
