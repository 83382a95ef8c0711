"""An encoder that reads a prompt and two answers together and scores both (PairRM, arXiv 2306.02561).

    gap = s(h_source, h_candidate1) - s(h_source, h_candidate2)

with h the states at three marker tokens and s one head for both candidates. Multi-turn prompts are written
with their roles, ``[user] ...``. The layout of the tokens: :class:`holdtrue.tokens.joint.MarkedPairs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.reward.kinds import ComparingKind

if TYPE_CHECKING:
    from holdtrue.reward.model import RewardModel
    from holdtrue.reward.store import Loaded, Source
    from holdtrue.tokens.conversation import Truncation
    from holdtrue.tokens.joint import JointEncoder


class PairRanker(ComparingKind):
    """An encoder with a head that scores two answers it reads together."""

    candidate_length: int | None = Field(None, gt=0)
    """Tokens of an answer that truncation (``left`` or ``right``) always leaves; the prompt gets the rest.
    By default a fifth of ``max_length``."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the head, where ``training.disable_dropout`` is off."""

    @property
    def labels(self) -> tuple[str, ...]:
        return ("candidate1", "candidate2")

    def build(self, source: Source) -> tuple[RewardModel, bool]:
        from holdtrue.reward.pair_ranker import load

        return load(self, source)

    def encoder(self, loaded: Loaded, max_length: int, truncation: Truncation) -> JointEncoder:
        from holdtrue.tokens.joint import MarkedPairs

        embeddings = loaded.model.inner.get_input_embeddings().num_embeddings
        vocabulary = embeddings if len(loaded.tokenizer) > embeddings else None
        return MarkedPairs(loaded.tokenizer, max_length, truncation, self.candidate_length, vocabulary)
