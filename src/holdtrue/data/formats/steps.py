"""Answers whose steps were judged one by one, for process reward models.

    prompt        text or messages
    completions   the steps of one answer, in order
    labels        one boolean, number or null per step

or a row of PRM800K:

    question      {problem}: the prompt
    label         {steps: [{completions: [{text, rating}], chosen_completion, human_completion}]}
    labeler       optional: who judged

The answer's text is its steps joined by line breaks (as the solutions of PRM800K were generated and TRL's
``PRMTrainer`` joined them), and ``Answer.steps`` holds (end of the step in that text, value). Booleans are
0 and 1, numbers stay as given (PRM800K: -1, 0 and 1); a step that was not judged is in the text and has no
value. In PRM800K the answer goes through the chosen completion of each step, else the one a labeler wrote
(that counts as 1), else the one of the pre-generated solution; other candidates are left out. Sources:
https://huggingface.co/docs/trl/v0.17.0/dataset_formats, https://github.com/openai/prm800k
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, as_number, items, mapping, objects, show, text
from holdtrue.data.formats import Format, holds, with_prompt
from holdtrue.data.formats._answers import layout_of
from holdtrue.records import Answer, Group

Step = tuple[str, float | None]


class Steps(Format):
    """``{prompt, completions, labels: [per step]}`` or a row of PRM800K: an answer judged step by step."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completions": "the steps of one answer, a list of text",
        "labels": "a boolean, a number or null per step",
        "question": "instead of prompt: the problem, as PRM800K has it",
        "label": "instead of completions and labels: the steps, as PRM800K has them",
        "labeler": "who judged the steps",
    }
    needs: ClassVar[tuple[str, ...]] = (
        "prompt, completions (steps) and labels (list), or question and label (PRM800K)",
    )
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "prompt": "What is 3 * 4 + 1?",
            "completions": ["3 * 4 = 12.", "12 + 1 = 14.", "The answer is 14."],
            "labels": [True, False, False],
        },
        {
            "prompt": [{"role": "user", "content": "Half of 10?"}],
            "completions": ["10 / 2 = 5"],
            "labels": [0.9],
        },
        {
            "labeler": "w1",
            "question": {"problem": "What is 7 - 5?", "pre_generated_steps": ["7 - 5 is 3.", "So 3."]},
            "label": {
                "steps": [
                    {
                        "completions": [
                            {"text": "7 - 5 is 3.", "rating": -1},
                            {"text": "It is 2.", "rating": 1},
                        ],
                        "chosen_completion": None,
                        "human_completion": None,
                    }
                ],
                "finish_reason": "found_error",
            },
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt, completions and labels that are no object, or the objects question and label."""
        published = isinstance(row.get("question"), Mapping) and isinstance(row.get("label"), Mapping)
        return layout_of(row) == "steps" or (published and holds(row, "question", "label"))

    def parse(self, row: Mapping[str, Any]) -> Group:
        prompt: Any
        if layout_of(row) == "steps":
            prompt, steps, rater = row["prompt"], _labelled(row), None
        else:
            prompt, steps = text(row["question"], "problem"), _prm800k(row)
            rater = None if row.get("labeler") is None else text(row, "labeler")
        ends: list[int] = []
        joined = ""
        for words, _ in steps:
            if not words.strip():
                raise BadRow("empty step", f"step {len(ends) + 1} of {len(steps)} has no text")
            joined += ("\n" if ends else "") + words
            ends.append(len(joined))
        prompt, (answer,) = with_prompt(prompt, (joined,), self.plain_text)
        values = tuple((end, value) for end, (_, value) in zip(ends, steps, strict=True) if value is not None)
        return Group(prompt, (Answer(answer, steps=values, rater=rater),))


def _labelled(row: Mapping[str, Any]) -> list[Step]:
    steps = items(row, "completions", "steps")
    texts = [text({f"completions[{i}]": step}, f"completions[{i}]") for i, step in enumerate(steps)]
    labels = items(row, "labels", "one label per step")
    if len(labels) != len(texts):
        raise BadRow("labels do not fit", f"{len(texts)} steps need as many labels, got {show(labels)}")
    return [(words, _value(label, "labels")) for words, label in zip(texts, labels, strict=True)]


def _value(label: Any, column: str) -> float | None:
    if label is None or isinstance(label, bool):
        return None if label is None else float(label)
    return as_number(label, column)


def _prm800k(row: Mapping[str, Any]) -> list[Step]:
    solution = row["question"].get("pre_generated_steps")
    solution = solution if isinstance(solution, list) else []
    steps = objects(row["label"], "steps", "steps")
    return [_taken(step, solution[i : i + 1]) for i, step in enumerate(steps)]


def _taken(step: Mapping[str, Any], pre_generated: list[Any]) -> Step:
    """The candidate of a step that the judged solution goes through, and its rating."""
    chosen, written = step.get("chosen_completion"), step.get("human_completion")
    if chosen is None and written is not None:
        return text(mapping(step, "human_completion"), "text"), 1.0
    candidates = objects(step, "completions", "candidates")
    if chosen is None:
        same = [candidate for candidate in candidates if candidate.get("text") in pre_generated] or candidates
        if len(same) > 1 and same is candidates:
            raise BadRow("step not chosen", f"none of {len(candidates)} candidates for a step was taken")
        taken = same[0]
    elif isinstance(chosen, int) and 0 <= chosen < len(candidates):
        taken = candidates[chosen]
    else:
        raise BadRow(
            "chosen_completion out of range",
            f"chosen_completion is {show(chosen)}, of {len(candidates)} candidates",
        )
    return text(taken, "text"), _value(taken.get("rating"), "rating")
