"""Tokens that no answer may hold, banned when it is drawn.

    log p'(x) = z_x - log Σ_{v not banned} exp z_v,   and -inf for what is banned

The trainer must compute the same: else every banned logit that it would raise looks like a difference between
engine and trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdtrue.doctor.checks.vocabulary import masks
from holdtrue.doctor.remedies import OWN, Context, DecodingRemedy, listed
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.errors import SettingsError


class BanControl(DecodingRemedy):
    """Control, multimodal and phantom ids are never drawn; tokens that end an answer always may be.

    In RL the log-probabilities of the trainer are renormalised over the same ids (:meth:`log_softmax`), and
    vLLM is started with ``--logprobs-mode processed_logprobs``.
    """

    grade = "A"
    evidence = (
        "certain for the ids themselves. It hides a habit and does not unlearn it: after 120 GRPO steps "
        "with the ban, loops without it were 0.099 where 0.107 had been, so mend the reward or the data "
        "too"
    )
    source = "vllm-project/vllm#13175; verl-project/verl PR 7882; hiyouga/EasyR1#110; lcqysl/FrameThinker#5"
    mends = frozenset({"control_tokens_can_be_sampled", "phantom_ids_unmasked"})
    harms = "an id among those to be banned ends answers: none could end; or the tokenizer is not known"

    also: tuple[int, ...] = ()
    """Further ids, such as those a family falls into."""

    def refuses(self, context: Context) -> str | None:
        """As :class:`DecodingRemedy`; and where ends would be banned, or nothing is known of the ids."""
        if context.vocabulary is None:
            return "which ids are control tokens is not known without the tokenizer"
        if ends := context.vocabulary.ends & set(self.also):
            return f"{context.vocabulary.names(sorted(ends))} end answers: with them banned none could end"
        return super().refuses(context)

    def banned(self, vocabulary: Vocabulary | None) -> list[int]:
        """The ids: control and phantom ones and ``also``, without the end tokens.

        Raises:
            SettingsError: there is no vocabulary, or ``also`` holds an end token.
        """
        if vocabulary is None:
            raise SettingsError("ban_control needs the vocabulary: give the folder of the model's tokenizer")
        if ends := vocabulary.ends & set(self.also):
            raise SettingsError(f"ids {listed(ends)} end answers; banned, no answer could end")
        phantom = range(vocabulary.size, vocabulary.width or 0)
        return sorted({*vocabulary.control, *phantom, *self.also} - vocabulary.ends)

    def engines(self, vocabulary: Vocabulary | None) -> Mapping[str, Mapping[str, Any]]:
        """A bias of -100 for vLLM and SGLang; transformers and holdtrue ban outright."""
        return {**masks(self.banned(vocabulary)), OWN: {"decoding.control": "ban"}}

    @staticmethod
    def log_softmax(logits: ArrayLike, banned: Sequence[int]) -> NDArray[np.float64]:
        """(..., V) log-probabilities over the ids that are not banned."""
        allowed = np.array(logits, dtype=float)
        allowed[..., list(banned)] = -np.inf
        shifted = allowed - allowed.max(-1, keepdims=True)
        result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return result
