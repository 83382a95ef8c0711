"""Loops that are ended while they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from holdtrue.doctor.remedies import DecodingRemedy
from holdtrue.doctor.vocabulary import Vocabulary


class EarlyAbort(DecodingRemedy):
    """The engine ends an answer whose last tokens are copies of one pattern, and says so as finish reason.

    In RL such an answer is left out of the update, or punished: it did not end by itself. Where the engine
    cannot do it, :mod:`holdtrue.health` watches from outside.
    """

    grade = "B"
    evidence = (
        "vLLM on Qwen3-VL: some 33 % more throughput, and nearly no answer at the length limit; the habit "
        "itself "
        "stays as it is"
    )
    source = "vllm-project/vllm PR 35451; MiniMax-M1 (arXiv 2506.13585) stops at long runs of sure tokens"
    mends = frozenset({"loops_taught_or_unpunished"})

    max_pattern_size: int = Field(128, ge=1)
    """Longest pattern in tokens: a paragraph."""
    min_pattern_size: int = Field(24, ge=1)
    """Shortest; loops of shorter ones are seen by a multiple of theirs, and rulers of dashes are not."""
    min_count: int = Field(4, ge=2)
    """Copies. Three are met in healthy lists, refrains and tables."""

    @model_validator(mode="after")
    def _ordered(self) -> EarlyAbort:
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError(
                f"min_pattern_size {self.min_pattern_size} is above max_pattern_size {self.max_pattern_size}"
            )
        return self

    def engines(self, vocabulary: Vocabulary | None) -> Mapping[str, Mapping[str, Any]]:
        """vLLM from 0.17 on; SGLang and transformers have nothing of the kind."""
        return {
            "vllm": {
                "repetition_detection": {
                    "max_pattern_size": self.max_pattern_size,
                    "min_pattern_size": self.min_pattern_size,
                    "min_count": self.min_count,
                }
            }
        }
