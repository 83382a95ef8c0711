"""Log-probabilities that are no numbers, and the token that then wins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading


class NanLogits(Detector):
    """Log-probabilities that are NaN or infinite, or a run of token 0, which wins when all are NaN. Fails.

    In the Qwen vocabulary token 0 is ``!``; where only text is known, ``run`` of them at the end warn.
    """

    why: ClassVar = "The engine's forward pass overflowed; no penalty on repetition can mend that."
    fix: ClassVar = (
        "bfloat16 instead of float16, sdpa or FlashAttention instead of eager; check the quantisation."
    )
    source: ClassVar = "vllm-project/vllm#14126, #13035; QwenLM/Qwen3#269"

    run: int = 32
    """Token 0 in a row."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """NaN first, else the run."""
        values = np.array([], dtype=np.float64)
        if reading.rollout.logprobs:
            values = np.array(reading.rollout.logprobs, dtype=np.float64)  # None becomes NaN
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            first, last = int(bad[0]), int(bad[-1]) + 1
            yield self.flag(
                "fail",
                f"{len(bad)} of {len(values)} log-probabilities are not finite, the first at token {first}",
                span=reading.characters(first, last),
                tokens=(first, last),
            )
            return
        if not len(reading.body) and "!" not in reading.text[-1:]:
            return
        zeros = reading.body == 0
        if len(zeros) >= self.run and zeros[-self.run :].all():
            first = int(np.flatnonzero(~zeros)[-1]) + 1 if not zeros.all() else 0
            yield self.flag(
                "fail",
                f"token 0 x {len(zeros) - first} at the end",
                span=reading.characters(first, len(zeros)),
                tokens=(first, len(zeros)),
            )
        elif not len(zeros) and reading.text.endswith("!" * self.run):
            first = len(reading.text.rstrip("!"))
            yield self.flag("warn", f"'!' x {reading.end - first} at the end", span=(first, reading.end))
