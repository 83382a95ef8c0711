"""The policy that drift is measured from."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

from torch import Tensor

from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.samples import PaddedSamples
from holdtrue.policy.update import Drawing, logprobs_of
from holdtrue.training.distributed import ALONE, World


class Reference:
    """A model that does not move: the one given, or the policy as it is now.

    The latter is the policy without its adapters where adapters are trained, and a copy of it elsewhere.
    """

    def __init__(self, policy: Any, model: Any, vocabulary: Vocabulary, decoding: Decoding) -> None:
        self._adapted = model is None and hasattr(policy, "peft_config")
        if self._adapted:
            self._model = policy
        else:
            self._model = deepcopy(policy) if model is None else model
            self._model.requires_grad_(False).eval()
        self._drawing = Drawing.of(self._model, vocabulary, decoding)

    def logprobs(self, padded: PaddedSamples, rows_per_pass: int, world: World = ALONE) -> Tensor:
        """(N, T) log-probabilities of all answers' tokens, 0 elsewhere."""
        with self._model.disable_adapter() if self._adapted else nullcontext():
            return logprobs_of(self._model, padded, self._drawing, rows_per_pass, world)
