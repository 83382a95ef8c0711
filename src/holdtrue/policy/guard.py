"""A guard for generation: rows that loop end, tokens no answer may hold are never sampled.

For transformers two objects for ``model.generate``; for vLLM and SGLang the request fields of the same.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessor, StoppingCriteria

from holdtrue.errors import SettingsError
from holdtrue.health.stream import LoopDetector, RepetitionDetection
from holdtrue.health.vocabulary import Vocabulary

BIAS = -100.0
"""The lowest ``logit_bias`` vLLM takes; e^-100 is never sampled."""


class LoopGuard(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch that loops, exactly or but for its numbers.

    ::

        guard = LoopGuard(vocabulary)
        ids = model.generate(**inputs, stopping_criteria=StoppingCriteriaList([guard]))
        ids = [row[prompt : prompt + n] for row, n in zip(ids, guard.lengths)]

    ``generate`` fills a row that ended early up with padding. Cut it off by :attr:`lengths` before anything
    is trained on it, or padding is taken for the answer. A guard serves one call of ``generate`` and no
    beam search, which moves rows about.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        rule: RepetitionDetection | None = None,
        near: RepetitionDetection | None = None,
    ) -> None:
        """Guard against loops by ``rule``, and by ``near`` where the vocabulary knows its digits."""
        self.vocabulary, self.rule, self.near = vocabulary, rule, near
        self._detectors: list[LoopDetector] = []
        self._length: int | None = None
        self._ended = np.zeros(0, dtype=np.bool_)
        ends = vocabulary.eos if vocabulary.pad is None else vocabulary.eos | {vocabulary.pad}
        self._ends = np.array(sorted(ends), dtype=np.int64)

    def __call__(self, input_ids: torch.Tensor, scores: Any = None, **kwargs: Any) -> torch.Tensor:
        """Take the tokens (R, T) so far; (R,) whether each row is to end."""
        rows, length = input_ids.shape
        if self._length is None:
            self._begin(rows)
            self._length = length - 1
        if rows != len(self._ended) or length <= self._length:
            raise SettingsError(
                f"a LoopGuard serves one call of generate: it has seen {len(self._ended)} rows of "
                f"{self._length} tokens and now gets {rows} of {length}; make a new one for each call"
            )
        for now in input_ids[:, self._length :].T.cpu().numpy():
            running = ~(self._ended | self.looping)
            for detector in self._detectors:
                detector.update(now, running)
            self._ended |= running & np.isin(now, self._ends)
        self._length = length
        return torch.from_numpy(self.looping).to(input_ids.device)

    @property
    def looping(self) -> NDArray[np.bool_]:
        """(R,) whether each row was ended because it loops."""
        found: NDArray[np.bool_] = np.any([one.looping for one in self._detectors], axis=0)
        return found

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(R,) tokens that were generated in each row, its end token counted, padding not."""
        return self._detectors[0].lengths

    @property
    def onsets(self) -> NDArray[np.int64]:
        """(R,) the first token of each row's loop among those generated, -1 without one."""
        found: NDArray[np.int64] = np.max([one.onset for one in self._detectors], axis=0)
        return found

    @property
    def finish(self) -> list[Literal["eos", "loop", "length"]]:
        """Why each row ended, when generation is over."""
        return [
            "loop" if loops else "eos" if ended else "length"
            for loops, ended in zip(self.looping, self._ended, strict=True)
        ]

    def _begin(self, rows: int) -> None:
        self._detectors = [LoopDetector(rows, self.rule)]
        if self.vocabulary.numbers is not None:
            self._detectors.append(LoopDetector(rows, self.near, numbers=self.vocabulary.numbers))
        self._ended = np.zeros(rows, dtype=np.bool_)


class TokenBan(LogitsProcessor):  # type: ignore[misc]
    """Never samples control or phantom ids, and gives the log-probabilities of what is left.

    Scores become ``log softmax`` over the allowed tokens. Train on the same: ``TokenBan(v)(None, logits)`` of
    the trainer's logits, or the ratio of new to old probabilities is biased. End tokens are never banned. The
    ban hides a habit and does not unlearn it; the reward has to see it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Ban the control and phantom ids of ``vocabulary``."""
        self.vocabulary = vocabulary
        self._ids: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        """Scores (..., V) as log-probabilities of the allowed tokens, -inf for the banned."""
        if self._ids is None or self._ids.device != scores.device:
            self._ids = torch.from_numpy(self.vocabulary.banned(scores.shape[-1])).to(scores.device)
        return scores.index_fill(-1, self._ids, float("-inf")).log_softmax(-1)


def vllm_parameters(
    vocabulary: Vocabulary, width: int, rule: RepetitionDetection | None = None
) -> dict[str, Any]:
    """Fields of vLLM's ``SamplingParams`` (0.17 on) for the same guard, of a model with ``width`` logits.

    A loop ends a row with finish reason ``repetition``. Ask the engine for
    ``logprobs_mode=processed_logprobs``: raw ones are those without the ban. Loops whose
    numbers change are not seen there.
    """
    return {
        "repetition_detection": (rule or RepetitionDetection()).vllm(),
        "stop_token_ids": sorted(vocabulary.eos),
        "logit_bias": dict.fromkeys(vocabulary.banned(width).tolist(), BIAS),
    }


def sglang_parameters(vocabulary: Vocabulary, width: int) -> dict[str, Any]:
    """Fields of SGLang's sampling parameters for the ban and the ends, of a model with ``width`` logits.

    SGLang has no field that stops loops; watch its streamed token ids with a
    :class:`~holdtrue.health.stream.LoopDetector` and abort the request.
    """
    return {
        "stop_token_ids": sorted(vocabulary.eos),
        "logit_bias": {str(token): BIAS for token in vocabulary.banned(width).tolist()},
    }
