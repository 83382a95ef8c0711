"""What an answer's length adds to its reward, counted in the tokens that were drawn.

    overlong   -penalty · min(1, max(0, (n - (L_max - L_cache)) / L_cache)),  -penalty without an end token
    length     per_token · n

n is the number of an answer's tokens, its end token counted; L_max is ``decoding.max_new_tokens``.
``overlong`` is DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13). Neither is whitened: both are
added to rewards that are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from holdtrue.settings import Section

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("overlong", "length")


class Shaping(Section):
    """What an answer's length adds to its whitened reward; nothing where the guard sets the reward."""

    overlong_cache: int | None = Field(None, gt=0)
    """Last tokens before ``decoding.max_new_tokens`` over which an answer's reward falls linearly from
    what it is to that less ``overlong_penalty``; answers without their end token lose all of it. DAPO's
    L_cache (arXiv 2503.14476, eq. 13), there a fifth of the longest answer. Null: no such punishment."""
    overlong_penalty: float = Field(1.0, gt=0)
    """What the longest answer loses, on the scale of the whitened reward."""
    per_token: float = 0.0
    """Reward of every token of an answer, its end token counted: below 0 long answers pay, above 0 short
    ones do."""

    @model_validator(mode="after")
    def _nothing_unused(self) -> Shaping:
        if self.overlong_cache is None and self.overlong_penalty != 1:
            raise ValueError("overlong_penalty does nothing without overlong_cache; set it too")
        return self

    def __call__(self, lengths: Tensor, ended: Tensor, longest: int) -> dict[str, Tensor]:
        """What each of N answers gets, float64, by the names of the parts that are asked for.

        Args:
            lengths: (N,) tokens of each.
            ended: (N,) bool, whether its end token was drawn.
            longest: L_max.
        """
        parts = {}
        if self.overlong_cache is not None:
            over = (lengths - (longest - self.overlong_cache)).double() / self.overlong_cache
            parts["overlong"] = -self.overlong_penalty * over.clamp(0, 1).where(ended, 1.0)
        if self.per_token:
            parts["length"] = self.per_token * lengths.double()
        return parts
