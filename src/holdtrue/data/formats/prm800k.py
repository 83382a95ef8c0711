"""Solutions of mathematical problems judged step by step: PRM800K.

    question   {problem, pre_generated_steps}
    label      {steps: [{completions: [{text, rating}], chosen_completion, human_completion}]}
    labeler    optional: who judged
    any other column is kept as metadata

The answer goes through the chosen completion of each step, else the one a labeler wrote (they wrote steps
to be rated 1), else the one of the pre-generated solution; other candidates are left out. Its steps are
joined by line breaks, as the solutions were generated (arXiv 2305.20050, sec. 2.3), and valued as in
``steps``, with the ratings -1, 0 and 1. Source: https://github.com/openai/prm800k#data
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, mapping, objects, show, text
from holdtrue.data.formats import Format, holds
from holdtrue.data.formats.steps import judged
from holdtrue.records import Group


class PRM800K(Format):
    """``{question, label}``: a problem and the candidates for each step of its solution, rated."""

    columns: ClassVar[Mapping[str, str]] = {
        "question": "an object with the problem, and the solution's pre_generated_steps",
        "label": "an object with the steps, each with rated completions and which of them was chosen",
        "labeler": "who judged, text",
    }
    needs: ClassVar[tuple[str, ...]] = ("question (object)", "label (object)")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "labeler": "w1",
            "question": {"problem": "What is 7 - 5?", "pre_generated_steps": ["7 - 5 is 3.", "So 3."]},
            "label": {
                "steps": [
                    {
                        "completions": [
                            {"text": "It is 2.", "rating": 1},
                            {"text": "7 - 5 is 3.", "rating": -1},
                        ],
                        "chosen_completion": None,
                        "human_completion": None,
                    }
                ],
                "finish_reason": "found_error",
            },
        },
        {
            "question": {"problem": "What is 2 * 3 + 1?"},
            "label": {
                "steps": [
                    {
                        "completions": [
                            {"text": "2 * 3 = 5.", "rating": -1},
                            {"text": "2 * 3 = 6.", "rating": 1},
                        ],
                        "chosen_completion": 1,
                    },
                    {
                        "completions": [{"text": "6 + 1 = 8.", "rating": -1}],
                        "chosen_completion": None,
                        "human_completion": {"text": "6 + 1 = 7.", "rating": None},
                    },
                ]
            },
            "generation": None,
        },
        {
            "question": {"problem": "Is 9 prime?"},
            "label": {
                "steps": [{"completions": [{"text": "Let me think.", "rating": 0}], "chosen_completion": 0}]
            },
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """The objects question and label."""
        published = isinstance(row.get("question"), Mapping) and isinstance(row.get("label"), Mapping)
        return published and holds(row, "question", "label")

    def parse(self, row: Mapping[str, Any]) -> Group:
        question, label = row["question"], row["label"]
        solution = question.get("pre_generated_steps")
        solution = solution if isinstance(solution, list) else []
        taken = [_taken(step, solution[i : i + 1]) for i, step in enumerate(objects(label, "steps", "steps"))]
        rater = None if row.get("labeler") is None else text(row, "labeler")
        texts, ratings = zip(*taken, strict=True)
        return judged(text(question, "problem"), texts, ratings, "rating", self.plain_text, rater)


def _taken(step: Mapping[str, Any], pre_generated: list[Any]) -> tuple[str, Any]:
    """The candidate of a step that the judged solution goes through, and its rating."""
    chosen = step.get("chosen_completion")
    if chosen is None and step.get("human_completion") is not None:
        return text(mapping(step, "human_completion"), "text"), 1
    candidates = objects(step, "completions", "candidates")
    if chosen is None:
        same = [candidate for candidate in candidates if candidate.get("text") in pre_generated]
        if not same and len(candidates) > 1:
            raise BadRow("step not chosen", f"none of {len(candidates)} candidates for a step was taken")
        taken = (same or candidates)[0]
    elif isinstance(chosen, int) and 0 <= chosen < len(candidates):
        taken = candidates[chosen]
    else:
        raise BadRow(
            "chosen_completion out of range",
            f"chosen_completion is {show(chosen)}, of {len(candidates)} candidates",
        )
    return text(taken, "text"), taken.get("rating")
