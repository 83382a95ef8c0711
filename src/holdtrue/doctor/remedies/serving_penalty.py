"""Penalties on what has been said already, for serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from holdtrue.doctor.remedies import DecodingRemedy
from holdtrue.doctor.vocabulary import Vocabulary


class ServingPenalty(DecodingRemedy):
    """A mild repetition penalty, and a presence penalty on request. For serving only."""

    grade = "B"
    evidence = "fewer loops when served: a reduction, not a cure; DRY and n-gram bans break tables and code"
    source = "QwenLM/Qwen3.8#216; waybarrios/vllm-mlx PR 723; OpenRLHF/OpenRLHF#1165; arXiv 1909.05858"
    mends = frozenset({"loops_taught_or_unpunished"})
    harms = "in RL: tokens are drawn from other probabilities than those that are trained"
    not_in_rl = (
        "tokens would be drawn from other probabilities than those that are trained: log-probabilities are "
        "biased; ban and abort instead"
    )

    repetition: float = Field(1.05, ge=1)
    """Divides the logits of tokens already there (1909.05858); above 1.1 names and code break."""
    presence: float = Field(0.0, ge=0, le=2)
    """Subtracted from them; Qwen3's cards advise up to 1.5 where thoughts loop."""

    def engines(self, vocabulary: Vocabulary | None) -> Mapping[str, Mapping[str, Any]]:
        """Transformers knows the repetition penalty alone."""
        both = {"repetition_penalty": self.repetition, "presence_penalty": self.presence}
        return {"vllm": both, "sglang": both, "transformers": {"repetition_penalty": self.repetition}}
