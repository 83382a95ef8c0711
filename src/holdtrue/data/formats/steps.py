"""Answers whose steps were judged one by one, for process reward models: TRL's "stepwise supervision".

    prompt        text or messages
    completions   the steps of one answer, in order
    labels        one boolean, number or null per step
    any other column is kept as metadata

The answer's text is its steps joined by line breaks (as TRL's ``PRMTrainer`` did by default), and
``Answer.steps`` holds (end of the step in that text, value). Booleans are 0 and 1, numbers stay as given; a
step that was not judged is in the text and has no value. Source:
https://huggingface.co/docs/trl/v0.17.0/dataset_formats
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, as_number, items, show, text
from holdtrue.data.formats import Format, with_prompt
from holdtrue.data.formats._answers import layout_of
from holdtrue.records import Answer, Group


class Steps(Format):
    """``{prompt, completions, labels}`` with one label per completion: an answer judged step by step."""

    columns: ClassVar[Mapping[str, str]] = {
        "prompt": "text or messages",
        "completions": "the steps of one answer, a list of text",
        "labels": "a boolean, a number or null per step",
    }
    needs: ClassVar[tuple[str, ...]] = ("prompt", "completions (steps)", "labels (list)")
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
            "prompt": "Is 9 prime?",
            "completions": ["9 = 3 * 3.", "So no."],
            "labels": [1, None],
            "origin": "demo",
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Prompt, completions and labels that are no object."""
        return layout_of(row) == "steps"

    def parse(self, row: Mapping[str, Any]) -> Group:
        steps = items(row, "completions", "steps")
        texts = [text({f"completions[{i}]": step}, f"completions[{i}]") for i, step in enumerate(steps)]
        labels = items(row, "labels", "one label per step")
        if len(labels) != len(texts):
            raise BadRow("labels do not fit", f"{len(texts)} steps need as many labels, got {show(labels)}")
        values = [float(label) if isinstance(label, bool) else label for label in labels]
        return judged(row["prompt"], texts, values, "labels", self.plain_text)


def judged(
    prompt: Any,
    texts: Sequence[str],
    values: Sequence[Any],
    column: str,
    plain_text: str,
    rater: str | None = None,
) -> Group:
    """A Group of one answer that was judged step by step; ``column`` is where the values come from."""
    ends: list[int] = []
    for words in texts:
        if not words.strip():
            raise BadRow("empty step", f"step {len(ends) + 1} of {len(texts)} has no text")
        ends.append((ends[-1] + 1 if ends else 0) + len(words))
    prompt, (answer,) = with_prompt(prompt, ("\n".join(texts),), plain_text)
    pairs = zip(ends, values, strict=True)
    steps = tuple((end, as_number(value, column)) for end, value in pairs if value is not None)
    return Group(prompt, (Answer(answer, steps=steps, rater=rater),))
