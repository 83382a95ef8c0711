"""More room for answers."""

from __future__ import annotations

from pydantic import Field

from holdtrue.doctor.remedies import OWN, Context, TrainingRemedy, percent


class LongerLimit(TrainingRemedy):
    """A limit above what answers need: more than the 95th percentile of the references' lengths."""

    grade = "A"
    evidence = "reported: a limit of 256 cut every answer, so reward, loss and gradient were 0"
    source = "huggingface/trl#5697; greyhaven-ai/autocontext PR 1067"
    mends = frozenset({"limit_too_short"})
    harms = "most of the cut answers loop: they would loop for longer"

    limit: int = Field(4096, gt=0)
    """Most tokens of an answer. By default twice the limit that answers were cut at, where that is known."""

    def fitted(self, context: Context) -> LongerLimit:
        """With twice the limit there was."""
        known = context.limit is not None and "limit" not in self.model_fields_set
        return LongerLimit(limit=2 * context.limit) if known and context.limit else self

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where loops fill any limit."""
        if context.looping is not None and context.looping > 0.5:
            return f"{percent(context.looping)} of the cut answers loop: they would only loop for longer"
        return super().refuses(context)

    def engines(self) -> dict[str, dict[str, object]]:
        """The engine's context must hold prompt and answer."""
        return {
            "trl": {"max_completion_length": self.limit},
            "verl": {"data.max_response_length": self.limit},
            OWN: {"decoding.max_new_tokens": self.limit},
        }
