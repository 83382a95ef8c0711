"""Unlikelihood: tokens that were said a moment ago are made less likely.

    L_t = -log p(x_t) - alpha · Σ_{c in C_t} log(1 - p(c)),   C_t = {x_{t-window} ... x_{t-1}} \\ {x_t}

Welleck et al., 2020 (arXiv 1908.04319), equations 4 and 5, with the whole past as window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from holdtrue.doctor.remedies import TrainingRemedy

if TYPE_CHECKING:
    from torch import Tensor


class Unlikelihood(TrainingRemedy):
    """A term of the supervised loss that punishes probability on tokens of the recent past."""

    grade = "B"
    evidence = (
        "less repetition at the same perplexity on Wikitext-103 with a 16-layer transformer and GPT-2 "
        "(1908.04319); so do DITTO (2206.02369) and self-contrastive training; not shown on large chat models"
    )
    source = "arXiv 1908.04319, 2206.02369"
    mends = frozenset({"loops_taught_or_unpunished"})
    harms = "in RL: sampled answers repeat names, arguments and numbers for good reason"
    not_in_rl = (
        "sampled answers repeat names, arguments and numbers for good reason, and the term is no part of "
        "the policy gradient; use junk_advantage or a penalty in the reward"
    )

    alpha: float = Field(1.0, gt=0)
    """Weight of the term (the paper's)."""
    window: int | None = Field(128, ge=1)
    """Tokens of the past that count; None for all of them. A window spares what a long answer must repeat."""

    def term(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(T,) ``-alpha · Σ log(1 - p(c))`` of each place, to be added to its loss and masked as it.

        Args:
            logits: (T, V) that predict ``targets``.
            targets: (T,) ids of one answer; all must be ids, not ignored labels.
        """
        import torch

        length = len(targets)
        said = logits.float().log_softmax(-1)[:, targets].exp()
        surprise = -torch.log1p(-said.clamp(max=1 - 1e-6))  # 1 - p is 0 in float32 where a loop is sure
        at = torch.arange(length, device=targets.device)
        past = at[None, :] < at[:, None]
        if self.window is not None:
            past &= at[:, None] - at[None, :] <= self.window
        same = targets[None, :] == targets[:, None]
        # a token said several times in the window counts once: at its last place
        again = (same[None] & past[:, None, :] & (at[None, None, :] > at[None, :, None])).any(-1)
        candidates = past & ~same & ~again
        return self.alpha * (surprise * candidates).sum(-1)
