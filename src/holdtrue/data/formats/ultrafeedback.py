"""Several answers rated overall and by aspect: UltraFeedback as first published.

    instruction   the prompt, text
    completions   objects with response, overall_score and annotations {aspect: {Rating}}
    any other column is kept as metadata

The aspects (helpfulness, honesty, instruction_following, truthfulness) become ratings of these names, a
``Rating`` of "N/A" none; ``overall_score`` becomes "rating", and any two answers with different ones a
comparison (all of a row together weigh 1). The scores are taken as published: some answers of low
quality carry an overall_score of 10 that was meant to be 1 (found by argilla,
https://huggingface.co/datasets/argilla/ultrafeedback-binarized-preferences). The binarized versions are
``preference``. Source: https://github.com/OpenBMB/UltraFeedback
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import mapping, number, objects, scores, text
from holdtrue.data.formats import Format, holds, ranked, with_prompt
from holdtrue.records import Answer, Group


class UltraFeedback(Format):
    """``{instruction, completions: [{response, overall_score, annotations}]}``: answers rated by aspect."""

    columns: ClassVar[Mapping[str, str]] = {
        "instruction": "the prompt, text",
        "completions": "objects with response, overall_score and annotations {aspect: {Rating}}",
    }
    needs: ClassVar[tuple[str, ...]] = ("instruction", "completions (objects)")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "instruction": "Name a fruit.",
            "completions": [
                {
                    "model": "small",
                    "response": "Apple.",
                    "overall_score": 9.0,
                    "annotations": {"helpfulness": {"Rating": "5"}, "honesty": {"Rating": "N/A"}},
                },
                {
                    "model": "smaller",
                    "response": "Stone.",
                    "overall_score": 2.0,
                    "annotations": {"helpfulness": {"Rating": "1"}, "honesty": {"Rating": "3"}},
                },
            ],
            "source": "demo",
        },
        {
            "instruction": "2 + 2?",
            "completions": [
                {"response": "4", "overall_score": 8.5, "annotations": {"truthfulness": {"Rating": 5}}},
                {"response": "Four", "overall_score": 8.5, "annotations": {}},
            ],
        },
        {"instruction": "Hi", "completions": [{"response": "Hello!", "overall_score": None}]},
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Instruction and completions, without a prompt."""
        return holds(row, "instruction", "completions") and "prompt" not in row

    def parse(self, row: Mapping[str, Any]) -> Group:
        found = objects(row, "completions", "objects with response and overall_score")
        texts = [text(completion, "response") for completion in found]
        prompt, answers = with_prompt(text(row, "instruction"), texts, self.plain_text)
        return ranked(
            prompt, [Answer(answer, _ratings(given)) for answer, given in zip(answers, found, strict=True)]
        )


def _ratings(completion: Mapping[str, Any]) -> dict[str, float]:
    annotations = {} if completion.get("annotations") is None else mapping(completion, "annotations")
    aspects = {
        aspect: _number(mapping(annotations, aspect).get("Rating"))
        for aspect, value in annotations.items()
        if value is not None
    }
    return scores({**aspects, "rating": number(completion, "overall_score")})


def _number(rating: Any) -> Any:
    """Ratings are numbers in text, or "N/A"; what is neither is left for the check of numbers to refuse."""
    if not isinstance(rating, str):
        return rating
    if rating == "N/A":
        return None
    try:
        return float(rating)
    except ValueError:
        return rating
