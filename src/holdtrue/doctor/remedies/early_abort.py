"""Loops that are ended while they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from holdtrue.doctor.remedies import OWN, Context, DecodingRemedy
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.health.stream import RepetitionDetection


class EarlyAbort(DecodingRemedy):
    """The engine ends an answer whose last tokens are copies of one pattern, and says so as finish reason.

    In RL such an answer is left out of the update, or punished: it did not end by itself. Where the engine
    cannot do it, :mod:`holdtrue.health.stream` watches from outside.
    """

    grade = "B"
    evidence = (
        "vLLM on Qwen3-VL: some 33 % more throughput, and nearly no answer at the length limit; the habit "
        "itself "
        "stays as it is"
    )
    source = "vllm-project/vllm PR 35451; MiniMax-M1 (arXiv 2506.13585) stops at long runs of sure tokens"
    mends = frozenset({"loops_taught_or_unpunished"})

    max_pattern_size: int = RepetitionDetection.max_pattern_size
    """Longest pattern in tokens."""
    min_pattern_size: int = RepetitionDetection.min_pattern_size
    """Shortest pattern."""
    min_count: int = RepetitionDetection.min_count
    """Copies. Three are met in healthy lists, refrains and tables."""
    min_cover: int = RepetitionDetection.min_cover
    """Tokens a loop covers in all, kept by looking for longer patterns: a ruler of dashes is none."""

    def fitted(self, context: Context) -> EarlyAbort:
        """With three quarters of the limit as cover, where the limit is below the cover and no loop would be
        seen."""
        limit = context.limit
        if limit is None or limit >= self.min_cover or "min_cover" in self.model_fields_set:
            return self
        return self.model_copy(update={"min_cover": limit * 3 // 4})

    def engines(self, vocabulary: Vocabulary | None) -> Mapping[str, Mapping[str, Any]]:
        """vLLM from 0.17 on, and holdtrue's loop guard; SGLang and transformers have nothing of the kind."""
        detection = RepetitionDetection(
            self.max_pattern_size, self.min_pattern_size, self.min_count, self.min_cover
        )
        own = {f"decoding.loop.{key}": value for key, value in asdict(detection).items()}
        return {"vllm": {"repetition_detection": detection.vllm()}, OWN: own}
