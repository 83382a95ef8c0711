"""The language model's head beside the reward's: how likely each token of an answer is.

    logprob_t = log softmax(V · h_{t-1})[token t]          [nats]

Tokens are those after what a tree's answers have in common; the first of them is predicted at the prompt's
last token. Logits (tokens, V) are never held at once: they are computed by ``CHUNK`` tokens, and again on
the way back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from holdtrue.errors import ModelError
from holdtrue.tokens.batches import PaddedBatch, TreeBatch

CHUNK = 256


class LanguageHead(nn.Module):
    """Log-probabilities of answers' tokens from a backbone's states.

    Args:
        head: linear map from states to the logits of the vocabulary.
        softcap: c where the model bends its logits to c · tanh(logit / c) (Gemma 2).
    """

    def __init__(self, head: nn.Module, softcap: float | None = None) -> None:
        super().__init__()
        self.head = head
        self.softcap = softcap

    def forward(self, hidden: Tensor, batch: TreeBatch | PaddedBatch) -> Tensor:
        """(Σ length,) float32, answer by answer; 0 for a token that nothing stands before."""
        row, column, before = _places(batch)
        states, tokens = hidden[row, before.clamp_min(0)], batch.input_ids[row, column]
        pieces = zip(torch.split(states, CHUNK), torch.split(tokens, CHUNK), strict=True)
        found = [checkpoint(self._logprobs, *piece, use_reentrant=False) for piece in pieces]
        return torch.cat(found).masked_fill(before < 0, 0.0)

    def _logprobs(self, states: Tensor, tokens: Tensor) -> Tensor:
        return -cross_entropy(self.logits(states), tokens, reduction="none")

    def logits(self, states: Tensor) -> Tensor:
        """(tokens, V) float32, what the language model gives at these states."""
        logits: Tensor = self.head(states.to(next(self.head.parameters()).dtype)).float()
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()


def _places(batch: TreeBatch | PaddedBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(Σ length,) each: row and column of every answer token, and the column it is predicted at, or -1."""
    length = batch.targets.length
    if isinstance(batch, PaddedBatch):
        left = batch.attention_mask.flip(1).cumsum(1).flip(1)  # real tokens from here on
        row, column = ((batch.attention_mask > 0) & (left <= length[:, None])).nonzero(as_tuple=True)
        known = (column > 0) & (batch.attention_mask[row, (column - 1).clamp_min(0)] > 0)
        return row, column, torch.where(known, column - 1, -1)
    column = batch.answer_rows
    begins = length.cumsum(0) - length
    start = column[begins]  # of each answer; those of a tree begin where its prompt ends
    tree = batch.targets.tree
    prompt_end = start.new_full((int(tree.max()) + 1,), batch.input_ids.shape[1])
    prompt_end = prompt_end.scatter_reduce(0, tree, start, "amin") - 1
    empty = batch.position_ids[0, start] == 0
    before = (column - 1).index_copy(0, begins, prompt_end[tree].masked_fill(empty, -1))
    return torch.zeros_like(column), column, before


def language_head(classifier: Any, causal: Any) -> LanguageHead:
    """The head of a causal LM for a classifier made from it: tied to its embeddings, or frozen.

    Raises:
        ModelError: the model does more with its logits than is known here.
    """
    config = causal.config.get_text_config()
    for name in ("logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ModelError(f"{type(causal).__name__} scales its logits ({name}), which is not supported")
    head = causal.get_output_embeddings()
    if config.tie_word_embeddings:
        head.weight = classifier.get_input_embeddings().weight
    else:
        head.requires_grad_(False)
    return LanguageHead(head, getattr(config, "final_logit_softcapping", None))
