"""A scalar reward model that keeps the language model's head while it is trained.

    reward = w · h(last token)          log P(token) = log softmax(V · h(token before))

The probabilities of the answers' tokens are for losses that hold the states to what they could do before
(arXiv 2406.10216). V is the base model's output matrix: its embeddings where the two are tied, frozen
otherwise. It is not saved: the trained model is an ordinary scalar one, so it is loaded and scored as such,
and costs as much.
"""

from __future__ import annotations

from typing import ClassVar

from holdtrue.reward.kinds.scalar import Scalar


class Language(Scalar):
    """One number per answer, and in training the probabilities of its tokens."""

    gives: ClassVar[frozenset[str]] = frozenset({"rewards", "hidden", "logprobs"})
