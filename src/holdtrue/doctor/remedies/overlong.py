"""A penalty that grows over the last tokens before the limit.

    R(y) = 0                               |y| <= limit - cache
    R(y) = factor · (limit - cache - |y|) / cache   up to the limit
    R(y) = -factor                         beyond

Yu et al., 2025 (DAPO, arXiv 2503.14476), equation 13.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from holdtrue.doctor.remedies import OWN, Context, TrainingRemedy, percent
from holdtrue.doctor.remedies.masks import MOST_CUT


class Overlong(TrainingRemedy):
    """Added to the reward, so that an answer feels the limit before it is cut."""

    grade = "B"
    evidence = (
        "part of DAPO, whose parts together took AIME24 from 30 to 50 points (Qwen2.5-32B); it sees length "
        "alone, no loop"
    )
    source = "arXiv 2503.14476, equation 13"
    mends = frozenset({"limit_too_short", "loops_taught_or_unpunished"})
    harms = "more than half of the answers are cut and do not loop: the limit is wrong, not the answers"
    not_in_sft = "supervised training has no reward"

    limit: int = Field(4096, gt=0)
    """Most tokens of an answer."""
    cache: int = Field(819, gt=0)
    """Tokens before it over which the penalty grows; DAPO takes a fifth of the limit (4,096 of 20,480)."""
    factor: float = Field(1.0, gt=0)
    """The largest penalty."""

    def fitted(self, context: Context) -> Overlong:
        """With the limit there is, and a fifth of it as the cache."""
        if context.limit is None or {"limit", "cache"} & self.model_fields_set:
            return self
        return Overlong(limit=context.limit, cache=max(context.limit // 5, 1), factor=self.factor)

    @model_validator(mode="after")
    def _ordered(self) -> Overlong:
        if self.cache > self.limit:
            raise ValueError(f"cache is a part of the limit; seen {self.cache} of {self.limit}")
        return self

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where answers need more room."""
        loops = context.looping is not None and context.looping > 0.5
        if context.truncated is not None and context.truncated > MOST_CUT and not loops:
            return (
                f"{percent(context.truncated)} of the answers are cut and most do not loop: raise the limit"
            )
        return super().refuses(context)

    def penalty(self, lengths: ArrayLike) -> NDArray[np.float64]:
        """What is added to the rewards of answers with these lengths in tokens."""
        past = np.asarray(lengths, dtype=float) - (self.limit - self.cache)
        return -self.factor * np.clip(past / self.cache, 0.0, 1.0) + 0.0

    def engines(self) -> dict[str, dict[str, object]]:
        """TRL has it as a reward function, verl in its reward manager ``dapo``, holdtrue as shaping."""
        buffer = "reward.reward_kwargs.overlong_buffer_cfg."
        length = {"max_completion_len": self.limit, "soft_punish_cache": self.cache}
        return {
            "trl": {
                "max_completion_length": self.limit,
                "reward_funcs": {"trl.rewards.get_soft_overlong_punishment": length},
                "reward_weights": [1.0, self.factor],
            },
            "verl": {
                "data.max_response_length": self.limit,
                "reward.reward_manager.name": "dapo",
                "reward.reward_kwargs.max_resp_len": self.limit,
                buffer + "enable": True,
                buffer + "len": self.cache,
                buffer + "penalty_factor": self.factor,
            },
            OWN: {
                "decoding.max_new_tokens": self.limit,
                "shaping.overlong_cache": self.cache,
                "shaping.overlong_penalty": self.factor,
            },
        }
