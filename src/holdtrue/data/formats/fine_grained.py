"""Feedback on answers in detail: error spans with aspect scores, or all pairs of several answers.

    prompt        text or messages
    completion    one answer, with
    errors        objects with type, start and end (characters of the answer, end exclusive), and
    labels        optional: aspect -> number or null, higher is better; or
    completions   K answers, with
    pairwise      objects with i, j (answers, from 0) and label: 1 the first is better, 2 the second,
                  0 neither
    any other column is kept as metadata

Errors become spans of the answer. The pairs of a row are one rater's view of the same answers, so together
they weigh 1, ties included (InstructGPT, arXiv 2203.02155, eq. 1). Source: FineGrainedRLHF,
arXiv 2306.01693, https://github.com/allenai/FineGrainedRLHF (tasks/qa_feedback)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, contents, mapping, objects, option, scores, show, text
from holdtrue.data.formats import Format, with_prompt
from holdtrue.data.formats._answers import layout_of, one_answer
from holdtrue.records import Answer, Comparison, Group, Span


class FineGrained(Format):
    """``{prompt, completion, errors[, labels]}`` or ``{prompt, completions, pairwise}``."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completion": "one answer: text, messages or one message",
        "errors": "objects with type, start and end: faults of that answer",
        "labels": "aspect -> number or null",
        "completions": "instead: K answers",
        "pairwise": "objects with i, j and label (1 first, 2 second, 0 neither is better)",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt", "completion and errors, or completions and pairwise")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "prompt": "Where is tea from?",
            "completion": "Tea is from China. It is a metal.",
            "errors": [{"type": "Wrong-Grounding", "start": 19, "end": 33}],
            "labels": {"relevance": 0, "factuality": -1},
            "missing_info": 0,
        },
        {"prompt": "2 + 2?", "completion": "4", "errors": [], "labels": {"relevance": 0, "factuality": None}},
        {
            "prompt": "Name a fruit.",
            "completions": ["Apple.", "Stone.", "Plum."],
            "pairwise": [
                {"i": 0, "j": 1, "label": 1},
                {"i": 0, "j": 2, "label": 0},
                {"i": 1, "j": 2, "label": 2},
            ],
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt, completion and errors, or prompt, completions and pairwise."""
        return layout_of(row) == "fine_grained"

    def parse(self, row: Mapping[str, Any]) -> Group:
        if "completions" in row:
            found = contents(row, "completions")
            prompt, answers = with_prompt(row["prompt"], found, self.plain_text)
            pairs = objects(row, "pairwise", "comparisons")
            comparisons = tuple(_comparison(one, len(answers), len(pairs)) for one in pairs)
            return Group(prompt, tuple(Answer(answer) for answer in answers), comparisons)
        prompt, content = one_answer(row, self.plain_text)
        length = len(Answer(content).text)
        errors = [] if row["errors"] == [] else objects(row, "errors", "error spans")
        labels = {} if row.get("labels") is None else mapping(row, "labels")
        return Group(
            prompt, (Answer(content, scores(labels), spans=tuple(_span(error, length) for error in errors)),)
        )


def _comparison(pair: Mapping[str, Any], answers: int, pairs: int) -> Comparison:
    first, second = (option(pair, name, {i: i for i in range(answers)}) for name in ("i", "j"))
    if first == second:
        raise BadRow("identical sides", f"answer {first} is compared with itself")
    return Comparison(first, second, option(pair, "label", {1: 1.0, 2: 0.0, 0: 0.5}), weight=1 / pairs)


def _span(error: Mapping[str, Any], length: int) -> Span:
    start, end = error.get("start"), error.get("end")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= length:
        raise BadRow(
            "span out of range", f"{show(dict(error))} is no part of an answer of {length} characters"
        )
    return Span(start, end, text(error, "type"))
